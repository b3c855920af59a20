// Load and run models in onnxruntime-web, and take the time: nothing here touches the page.
const FOLDER = "./node_modules/onnxruntime-web/dist/";
// The ONNX model y = x.
const SMALLEST = "CAg6NwoQCgF4EgF5IghJZGVudGl0eRIBZ1oPCgF4EgoKCAgBEgQKAggBYg8KAXkSCgoICAESBAoCCAFCBAoAEA0=";

/** onnxruntime-web with its WebAssembly started, and how long that took: { ort, milliseconds }. */
export async function startRuntime() {
  // The build for the processor alone; the others bring a WebAssembly file of twice the size.
  const ort = await import(new URL(`${FOLDER}ort.wasm.bundle.min.mjs`, import.meta.url));
  // More threads need a page that is isolated by its server's headers: README.md.
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = new URL(FOLDER, import.meta.url).href;
  ort.env.logLevel = "error";
  const begin = performance.now();
  // The first session starts the WebAssembly, so it gets the smallest model: no other pays for the start.
  await ort.InferenceSession.create(Uint8Array.from(atob(SMALLEST), (each) => each.charCodeAt(0)));
  return { ort, milliseconds: performance.now() - begin };
}

/** A session, the bytes that came over the wire, and how long creating the session took. */
export async function load(ort, url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: the server says ${answer.status}, expected 200: run python make_models.py and start the server in this folder.`);
  const file = new Uint8Array(await answer.arrayBuffer());
  const [entry] = performance.getEntriesByName(new URL(url, location.href).href).slice(-1);
  const begin = performance.now();
  const session = await ort.InferenceSession.create(file);
  return {
    session,
    milliseconds: performance.now() - begin,
    // Fewer than the file has, where the server compresses.
    wire: entry?.encodedBodySize || file.length,
  };
}

/** The first output for pixels [channels * side * side] from 0 to 1, and the time of each run. */
export async function run(ort, session, pixels, channels, side, times = 1) {
  const input = new ort.Tensor("float32", pixels, [1, channels, side, side]);
  const milliseconds = [];
  let found;
  for (let i = 0; i < times; i++) {
    const begin = performance.now();
    found = await session.run({ [session.inputNames[0]]: input });
    milliseconds.push(performance.now() - begin);
  }
  return { output: found[session.outputNames[0]].data, milliseconds };
}

/** The class with the largest output, and its share by softmax. */
export function top(output) {
  const most = Math.max(...output);
  const sum = output.reduce((total, each) => total + Math.exp(each - most), 0);
  return { place: output.indexOf(most), share: 1 / sum };
}

/** The largest difference between two outputs, over the largest entry of the second. */
export function difference(one, other) {
  let apart = 0;
  let size = 0;
  for (let i = 0; i < other.length; i++) {
    apart = Math.max(apart, Math.abs(one[i] - other[i]));
    size = Math.max(size, Math.abs(other[i]));
  }
  return apart / size;
}

/** The number in the middle. */
export function median(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[sorted.length >> 1];
}
