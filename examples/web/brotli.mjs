// node brotli.mjs QUALITY FILE...: the bytes of each file, and those of its brotli form, as JSON.
// Quality 9 takes seconds; 11, for files that are compressed once and served often, takes twenty times as long.
import { readFile } from "node:fs/promises";
import { promisify } from "node:util";
import { brotliCompress, constants } from "node:zlib";

const [quality, ...files] = process.argv.slice(2);
const compress = promisify(brotliCompress);

async function sizes(file) {
  const bytes = await readFile(file);
  const params = {
    [constants.BROTLI_PARAM_QUALITY]: Number(quality),
    [constants.BROTLI_PARAM_LGWIN]: constants.BROTLI_MAX_WINDOW_BITS,
    [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length,
  };
  return { bytes: bytes.length, brotli: (await compress(bytes, { params })).length };
}

console.log(JSON.stringify(await Promise.all(files.map(sizes))));
