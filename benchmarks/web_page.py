"""Forms of weights in the browser, and the page of examples/web: docs/results/web_page.md and .json.

    python -m benchmarks.web_page                # twenty minutes on one core, most of them for brotli
    python -m benchmarks.web_page --rounds 3     # what is in --folder already is not made again
    python -m benchmarks.web_page --page         # only write the page from the results again

Needs Node.js, npm and an index of packages, Chromium and playwright. Every load is one of a fresh page without a cache;
the files take turns, round after round. Times of the processor are those of the page's main thread, which does all.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.training_cases import machine, read, table, write
from sparsify_fx.onnx_export import pack_onnx
from sparsify_fx.onnx_export.profiles import PROFILES
from sparsify_fx.onnx_export.storage.codecs.operators import FASTEST, PORTABLE
from sparsify_fx.training_cost.surroundings import surroundings
from tests.browser import chromium, served

NAME = "web_page"
EXAMPLE = Path(__file__).parents[1] / "examples/web"
RUNS = 12
SPEEDS = (10, 50, 200)

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

# In a fresh page: the WebAssembly is started, then the file is loaded and run. What takes
# processor time is asked of Chromium between the two, so they are two pieces.
BEGIN = """async () => {
  const Plain = WebAssembly.Memory;
  WebAssembly.Memory = class extends Plain {
    constructor(wanted) { super(wanted); globalThis.heap = this; }
  };
  globalThis.models = await import("/models.js");
  globalThis.runtime = await models.startRuntime();
  return [runtime.milliseconds, runtime.ort.env.versions.web];
}"""
LOAD = """async (url) => {
  globalThis.loaded = await models.load(runtime.ort, url);
  return { load: loaded.milliseconds, wire: loaded.wire, heap: globalThis.heap?.buffer.byteLength ?? 0 };
}"""
RUN = """async (runs) => {
  const pixels = Float32Array.from({ length: 3 * 224 * 224 }, (_, i) => 0.5 + 0.5 * Math.sin(i * 0.37));
  const { output, milliseconds } = await models.run(runtime.ort, loaded.session, pixels, 3, 224, runs);
  return { runs: milliseconds, output: [...output] };
}"""

PAGE = """# In the browser, measured

torchvision's resnet18 at 90 % zeros, as the target `web` and others store it, in onnxruntime-web {runtime} on one thread,
Chromium {browser}. Each load is one of a fresh page that has started the WebAssembly ({start:.0f} ms) and has nothing
cached; the files take turns in {rounds} rounds. *Load* creates the session, *of dense* is its ratio
in the same round. *Run* is the median of the last {last} of {runs} inferences, and *first* is the very first. *Memory* is the
WebAssembly's after loading. *Difference* is from the dense file, over the largest output. Medians, times of the
processor for load and wall times for the others, on a machine with other work: compare, do not quote.

{forms}

The runtime itself, `ort-wasm-simd-threaded.wasm`, has {wasm} MB, {wasm_brotli} with brotli (quality 11, as all here).

Seconds from the request to the session, that is bytes over the line's speed and the time of loading:

{ready}

The page `examples/web` itself, a LeNet-5 trained on real digits at 95 % zeros; the outputs of `packed` and `coo` are those of
`dense`, bit for bit:

{digits}

Made by `python -m benchmarks.web_page`. {machine} Raw results: `docs/results/web_page.json`.
"""


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
        command = ["node", str(EXAMPLE / "brotli.mjs"), *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        sizes.write_text(done.stdout)


def form_file(encoding: str, values: str, operators: frozenset[str]) -> str:
    """The name of the file of a form."""
    kind = {FASTEST: "web", PORTABLE: "portable"}.get(operators, "single")
    return f"form-{encoding}-{values}-{kind}.onnx"


def fresh_page(driver: Any, address: str, file: str, runs: int = RUNS) -> dict[str, Any]:  # fmt: skip
    """One load in a page of its own: times in milliseconds, `cpu` those of the processor."""
    context = driver.new_context()
    page = context.new_page()
    page.goto(f"{address}brotli.mjs")
    tools = context.new_cdp_session(page)
    tools.send("Performance.enable", {"timeDomain": "threadTicks"})
    start, version = page.evaluate(BEGIN)
    before = processor(tools)
    found = page.evaluate(LOAD, f"/models/{file}")
    cpu = processor(tools) - before
    ran = page.evaluate(RUN, runs)
    context.close()
    return {"start": start, "version": version, "cpu": cpu, **found, **ran}


def processor(tools: Any) -> float:
    """Milliseconds that the main thread of the page has computed."""
    metrics = tools.send("Performance.getMetrics")["metrics"]
    named = {each["name"]: each["value"] for each in metrics}
    return 1000 * float(named["TaskDuration"])


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """All forms in turn, then the page itself."""
    sizes = json.loads((folder / "models/sizes.json").read_text())
    rows = {
        title: {**size, "pages": []} for title, size in zip(FORMS, sizes, strict=True)
    }
    outputs: dict[str, list[float]] = {}
    with served(folder) as address, chromium() as browser:
        for number in range(rounds):
            for title, form in FORMS.items():
                found = fresh_page(browser.driver, address, form_file(*form))
                outputs.setdefault(title, found.pop("output"))
                rows[title]["pages"].append(found)
                print(f"{number} {title}: {found['cpu']:.0f} ms", flush=True)
        digits = [page_figures(browser, address) for _ in range(rounds)]
        version = browser.driver.version
    largest = max(map(abs, outputs["dense"]))
    for title, output in outputs.items():
        apart = (abs(a - b) for a, b in zip(output, outputs["dense"], strict=True))
        rows[title]["difference"] = max(apart) / largest
    manifest = json.loads((folder / "models/manifest.json").read_text())
    return {
        "browser": version,
        "rows": rows,
        "digits": digits,
        "runtime": manifest["runtime"],
        "about": manifest["models"][0]["about"],
        "files": manifest["models"][0]["files"],
        "surroundings": surroundings(),
    }


def page_figures(browser: Any, address: str) -> list[dict[str, str]]:
    """What a visitor of the page reads, row by row."""
    question = """() => [...document.querySelectorAll("#rows tr")].map((row) => Object.fromEntries(
      [...row.cells].map((cell) => [cell.className, cell.textContent.trim()])))"""
    found: list[dict[str, str]] = browser.visit(address, 1280, "light", question).found
    return found


def middle(row: dict[str, Any], key: str | Callable[[dict[str, Any]], float]) -> float:
    """The median over the fresh pages of a row."""
    take = key if callable(key) else lambda page: page[key]
    return statistics.median(take(page) for page in row["pages"])


def settled(page: dict[str, Any]) -> float:
    """The time of a run once the browser has optimized its code."""
    return statistics.median(page["runs"][len(page["runs"]) // 2 :])


def forms_table(found: dict[str, Any]) -> str:
    """A line for each form."""
    rows = found["rows"]
    lines = [("form", "MB", "brotli", "load, ms", "of dense", "first, ms", "run, ms", "memory, MB", "difference")]  # fmt: skip
    for title, row in rows.items():
        pairs = zip(row["pages"], rows["dense"]["pages"], strict=True)
        ratio = statistics.median(one["cpu"] / other["cpu"] for one, other in pairs)
        lines.append(
            (
                title,
                f"{row['bytes'] / 1e6:.2f}",
                f"{row['brotli'] / 1e6:.2f}",
                f"{middle(row, 'cpu'):.0f}",
                f"{ratio:.1f}",
                f"{middle(row, lambda page: page['runs'][0]):.0f}",
                f"{middle(row, settled):.0f}",
                f"{middle(row, 'heap') / 1e6:.0f}",
                f"{row['difference']:.0e}" if row["difference"] else "0",
            )
        )
    return table(*lines)


def ready_table(found: dict[str, Any]) -> str:
    """Seconds to a session by the speed of the line, files as they are and with brotli."""
    head = [f"{speed} Mbit/s{more}" for more in ("", ", brotli") for speed in SPEEDS]
    lines = [("form", *head)]
    for title, row in found["rows"].items():
        load = middle(row, "cpu") / 1000
        times = [
            row[kind] * 8 / speed / 1e6 + load
            for kind in ("bytes", "brotli")
            for speed in SPEEDS
        ]
        lines.append((title, *(f"{time:.1f}" for time in times)))
    return table(*lines)


def digits_table(found: dict[str, Any]) -> str:
    """The page's own table, in the middle of several visits."""
    lines = [("file", "kB", "brotli, kB", "load, ms", "run, ms", "difference")]
    for place, file in enumerate(found["files"]):
        visits = [visit[place] for visit in found["digits"]]
        load, run = (
            statistics.median(float(visit[key].split()[0]) for visit in visits)
            for key in ("load", "run")
        )
        sizes = (f"{file[kind] / 1e3:.1f}" for kind in ("bytes", "brotli"))
        lines.append((file["title"], *sizes, f"{load:.0f}", f"{run:.2f}", visits[0]["apart"]))  # fmt: skip
    return table(*lines)


def page(found: dict[str, Any]) -> str:
    """The page of these results."""
    pages = found["rows"]["dense"]["pages"]
    runs = len(pages[0]["runs"])
    return PAGE.format(
        runtime=pages[0]["version"],
        browser=found["browser"],
        start=middle(found["rows"]["dense"], "start"),
        rounds=len(pages),
        runs=runs,
        last=runs - runs // 2,
        forms=forms_table(found),
        wasm=f"{found['runtime']['bytes'] / 1e6:.1f}",
        wasm_brotli=f"{found['runtime']['brotli'] / 1e6:.1f}",
        ready=ready_table(found),
        digits=digits_table(found),
        machine=machine(found["surroundings"]),
    )


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
        found = measure(options.folder, options.rounds)
    write(NAME, found, page(found))


if __name__ == "__main__":
    main()
