"""Forms of weights in the browser, and the page of examples/web: docs/results/web_page.md and .json.

    python -m benchmarks.web_page                # twenty minutes on one core, most of them for brotli
    python -m benchmarks.web_page --rounds 3     # what is in --folder already is not made again
    python -m benchmarks.web_page --page         # only write the page from the results again

Needs Node.js, npm and an index of packages, Chromium and playwright. Every load is one of a fresh page without a cache;
the files take turns, round after round. Times are wall times of whatever else the machine does: ratios count.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.training_cases import read, write
from benchmarks.web_tables import page
from sparsify_fx.onnx_export import pack_onnx
from sparsify_fx.onnx_export.profiles import PROFILES
from sparsify_fx.onnx_export.storage.codecs.operators import FASTEST, PORTABLE
from sparsify_fx.training_cost.surroundings import surroundings
from tests.browser import chromium, served

NAME = "web_page"
EXAMPLE = Path(__file__).parents[1] / "examples/web"
WASM = "node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.wasm"
RUNS = 8
QUALITY = "9"

# Title: encoding, values, operators. The first is what the others are compared with.
FORMS = {
    "dense": ("dense", "fp32", FASTEST),
    "coo": ("coo", "fp32", FASTEST),
    "gap": ("gap", "fp32", FASTEST),
    "gap without rounds": ("gap", "fp32", FASTEST - {"Scan"}),
    "gap, portable": ("gap", "fp32", PORTABLE),
    "gap, fp32-packed": ("gap", "fp32-packed", FASTEST),
    "bitmask": ("bitmask", "fp32", FASTEST),
    "dense, int8": ("dense", "int8", FASTEST),
    "coo, int8": ("coo", "int8", FASTEST),
    "gap, int8": ("gap", "int8", FASTEST),
}

# In a fresh page: the WebAssembly is started, then the file is loaded and run.
BEGIN = """async () => {
  globalThis.models = await import("/models.js");
  globalThis.runtime = await models.startRuntime();
  return [runtime.milliseconds, runtime.ort.env.versions.web];
}"""
LOAD = """async (url) => {
  globalThis.loaded = await models.load(runtime.ort, url);
  return { load: loaded.milliseconds, wire: loaded.wire };
}"""
RUN = """async (runs) => {
  const pixels = Float32Array.from({ length: 3 * 224 * 224 }, (_, i) => 0.5 + 0.5 * Math.sin(i * 0.37));
  const { output, milliseconds } = await models.run(runtime.ort, loaded.session, pixels, 3, 224, runs);
  return { runs: milliseconds, output: [...output] };
}"""


def prepare(folder: Path) -> None:
    """The example with all models of `FORMS` in a folder, as far as they are not there; sizes in sizes.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in EXAMPLE.glob("*.*"):
        if file.is_file():
            shutil.copy2(file, folder / file.name)
    if not (folder / "node_modules").exists():
        subprocess.run(["npm", "install", "--no-audit", "--no-fund"], cwd=folder, check=True)  # fmt: skip
    models = folder / "models"
    if not (models / "manifest.json").exists():
        command = [sys.executable, str(folder / "make_models.py"), "--resnet18"]
        subprocess.run(command, check=True)
    web, sizes = PROFILES["web"], models / "sizes.json"
    for encoding, values, operators in FORMS.values():
        file = models / form_file(encoding, values, operators)
        if not file.exists():
            # What another profile would write; the name of the target stays.
            PROFILES["web"] = replace(web, operators=operators)
            pack_onnx(
                models / "resnet18-dense.onnx", file, encoding=encoding, values=values,
                target="web", verify=False,
            )  # fmt: skip
    PROFILES["web"] = web
    if not sizes.exists():
        files = [models / form_file(*form) for form in FORMS.values()]
        files.append(folder / WASM)
        command = ["node", str(EXAMPLE / "brotli.mjs"), QUALITY, *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        sizes.write_text(done.stdout)


def form_file(encoding: str, values: str, operators: frozenset[str]) -> str:
    """The name of the file of a form."""
    kind = {FASTEST: "web", PORTABLE: "portable"}.get(operators, "single")
    return f"form-{encoding}-{values}-{kind}.onnx"


def fresh_page(driver: Any, address: str, file: str, runs: int = RUNS) -> dict[str, Any]:  # fmt: skip
    """One load in a page of its own; times in milliseconds."""
    context = driver.new_context()
    page = context.new_page()
    page.goto(f"{address}brotli.mjs")
    start, version = page.evaluate(BEGIN)
    found = page.evaluate(LOAD, f"/models/{file}")
    ran = page.evaluate(RUN, runs)
    context.close()
    return {"start": start, "version": version, **found, **ran}


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """All forms in turn, then the page itself; pages.json in the folder has what was seen after each round."""
    rows: dict[str, Any] = {title: {"pages": []} for title in FORMS}
    with served(folder) as address, chromium() as browser:
        seen = {"browser": browser.driver.version, "rows": rows, "digits": []}
        for number in range(rounds):
            for title, form in FORMS.items():
                found = fresh_page(browser.driver, address, form_file(*form))
                rows[title]["output"] = found.pop("output")
                rows[title]["pages"].append(found)
                print(f"{number} {title}: {found['load']:.0f} ms", flush=True)
            seen["digits"].append(page_figures(browser, address))
            (folder / "pages.json").write_text(json.dumps(seen))
    return seen


def results(folder: Path, seen: dict[str, Any]) -> dict[str, Any]:
    """What was seen with sizes and differences, for JSON."""
    *sizes, runtime = json.loads((folder / "models/sizes.json").read_text())
    outputs = [row.pop("output") for row in seen["rows"].values()]
    largest = max(map(abs, outputs[0]))
    for row, size, output in zip(seen["rows"].values(), sizes, outputs, strict=True):
        apart = (abs(a - b) for a, b in zip(output, outputs[0], strict=True))
        row |= size | {"difference": max(apart) / largest}
    digits = json.loads((folder / "models/manifest.json").read_text())["models"][0]
    return {
        **seen,
        "runtime": runtime,
        "about": digits["about"],
        "files": digits["files"],
        "surroundings": surroundings(),
    }


def page_figures(browser: Any, address: str) -> list[dict[str, str]]:
    """What a visitor of the page reads, row by row."""
    question = """() => [...document.querySelectorAll("#rows tr")].map((row) => Object.fromEntries(
      [...row.cells].map((cell) => [cell.className, cell.textContent.trim()])))"""
    found: list[dict[str, str]] = browser.visit(address, 1280, "light", question).found
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=Path("runs/web_page"))
    parser.add_argument("--page", action="store_true", help="measure nothing")
    options = parser.parse_args()
    found = read(NAME)
    if not options.page:
        prepare(options.folder)
        found = results(options.folder, measure(options.folder, options.rounds))
    write(NAME, found, page(found))


if __name__ == "__main__":
    main()
