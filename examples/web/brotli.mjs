// node brotli.mjs FILE...: the bytes of each file, and those of its brotli form, as JSON.
// Quality 11, as files are compressed once, before they are put on a server.
import { readFileSync } from "node:fs";
import { brotliCompressSync, constants } from "node:zlib";

const sizes = process.argv.slice(2).map((file) => {
  const bytes = readFileSync(file);
  const params = {
    [constants.BROTLI_PARAM_QUALITY]: 11,
    [constants.BROTLI_PARAM_LGWIN]: constants.BROTLI_MAX_WINDOW_BITS,
    [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length,
  };
  return { bytes: bytes.length, brotli: brotliCompressSync(bytes, { params }).length };
});
console.log(JSON.stringify(sizes));
