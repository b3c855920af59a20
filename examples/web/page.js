// The page: all files of a model are loaded one after the other, and answer the same picture.
import { difference, load, median, run, startRuntime, top } from "./models.js";
import { picture } from "./picture.js";

const RUNS = 15;
const FOLDER = "./models/";
const at = (id) => document.getElementById(id);
const state = { ort: null, model: null, loaded: [], turn: 0, queue: Promise.resolve() };

const kilobytes = (bytes) =>
  bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(2)} MB`;
const milliseconds = (time) => `${time < 10 ? time.toFixed(2) : time.toFixed(0)} ms`;

function say(text, state = "") {
  at("status").textContent = text;
  at("status").dataset.state = state;
  document.body.dataset.state = state;
}

/** A row of the table; cells are found by their class. */
function addRow(file) {
  const row = at("row").content.querySelector("tr").cloneNode(true);
  row.dataset.file = file.title;
  row.querySelector(".title").textContent = file.title;
  at("rows").append(row);
  fill(row, "brotli", kilobytes(file.brotli));
  return row;
}

function fill(row, name, text) {
  row.querySelector(`.${name} span`).textContent = text;
}

/** Loads every file of a model in the order of the table. */
async function show(model) {
  const turn = ++state.turn;
  say(`Loading ${model.name} …`);
  at("about").textContent = `${model.about}.`;
  at("rows").replaceChildren();
  const rows = model.files.map(addRow);
  // What is loaded stays in the memory of WebAssembly, which never shrinks: let go of the last model first.
  for (const each of state.loaded) await each.session.release();
  Object.assign(state, { model, loaded: [] });
  for (const [i, file] of model.files.entries()) {
    if (turn !== state.turn) return;
    const found = await load(state.ort, FOLDER + file.file);
    state.loaded.push({ ...found, row: rows[i] });
    fill(rows[i], "wire", kilobytes(found.wire));
    rows[i].style.setProperty("--share", found.wire / state.loaded[0].wire);
    fill(rows[i], "load", milliseconds(found.milliseconds));
  }
  await answer(turn);
}

/** Every file's answer to the picture. */
async function answer(turn) {
  const { ort, model, loaded } = state;
  if (turn !== state.turn || loaded.length < model.files.length) return;
  const pixels = state.picture.pixels(model.channels, model.side);
  let first = null;
  for (const each of loaded) {
    const { output, milliseconds: times } = await run(
      ort, each.session, pixels, model.channels, model.side, RUNS,
    );
    const { place, share } = top(output);
    first ??= { output, place };
    const apart = difference(output, first.output);
    each.row.dataset.same = String(place === first.place);
    each.row.dataset.difference = apart;
    fill(each.row, "run", milliseconds(median(times)));
    fill(each.row, "answer", `${place} (${(100 * share).toFixed(1)} %)`);
    fill(each.row, "apart", apart === 0 ? "0" : apart.toExponential(0));
  }
  const agree = loaded.every((each) => each.row.dataset.same === "true");
  at("answer").textContent = top(first.output).place;
  say(agree ? "All files give the same answer." : "The files disagree on this picture.", "ready");
}

/** One thing after the other: sessions share one WebAssembly, and times would be those of two. */
function next(task) {
  state.queue = state.queue.then(task).catch((error) => say(error.message, "failed"));
}

function button(parent, label, press) {
  const made = document.createElement("button");
  made.type = "button";
  made.append(label);
  made.addEventListener("click", press);
  parent.append(made);
  return made;
}

function offer(manifest) {
  for (const name of manifest.pictures) {
    const image = new Image(28, 28);
    image.src = FOLDER + name;
    image.alt = `the digit ${name.match(/\d/)}`;
    button(at("given"), image, () => state.picture.show(image));
  }
  if (manifest.models.length < 2) return;
  for (const model of manifest.models) {
    button(at("models"), model.name, (event) => choose(event.currentTarget, model));
  }
}

function choose(pressed, model) {
  for (const each of at("models").children) each.setAttribute("aria-pressed", each === pressed);
  next(() => show(model));
}

async function main() {
  say("Starting onnxruntime-web …");
  const [manifest, runtime] = await Promise.all([
    fetch(`${FOLDER}manifest.json`).then((found) => {
      if (!found.ok) throw new Error("There are no models yet: run python make_models.py.");
      return found.json();
    }),
    startRuntime().catch(() => {
      throw new Error("There is no onnxruntime-web yet: run npm install.");
    }),
  ]);
  state.ort = runtime.ort;
  state.picture = picture(at("picture"), () => next(() => answer(state.turn)));
  const { bytes, brotli } = manifest.runtime;
  at("runtime").textContent =
    `onnxruntime-web ${runtime.ort.env.versions.web} itself: ${kilobytes(bytes)}, ` +
    `${kilobytes(brotli)} with brotli, started in ${milliseconds(runtime.milliseconds)}, one thread.`;
  offer(manifest);
  at("clear").addEventListener("click", () => state.picture.clear());
  at("file").addEventListener("change", async ({ target }) => {
    if (!target.files.length) return;
    try {
      state.picture.show(await createImageBitmap(target.files[0]));
    } catch {
      say(`${target.files[0].name} is no picture that this browser can open.`, "failed");
    }
  });
  const image = await loadImage(FOLDER + manifest.pictures[3]);
  state.picture.show(image);
  const wanted = new URLSearchParams(location.search).get("model");
  const model = manifest.models.find((each) => each.name === wanted) ?? manifest.models[0];
  choose(at("models").children[manifest.models.indexOf(model)], model);
}

async function loadImage(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}

main().catch((error) => say(error.message, "failed"));
