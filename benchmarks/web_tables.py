"""The page of benchmarks/web_page.py: its results as tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.training_cases import machine, table

# Of a line, in Mbit/s.
SPEEDS = (10, 50, 200)
HEAD = (
    "form", "MB", "brotli", "load, ms", "of dense", "first, ms", "run, ms", "difference",
)  # fmt: skip

PAGE = """# In the browser, measured

torchvision's resnet18 at 90 % zeros in onnxruntime-web {runtime}, one thread, Chromium {browser}. Each load is one of a
fresh page that has started the WebAssembly ({start:.0f} ms) and has nothing cached; the files take turns in {rounds}
rounds. *Load* creates the session, *of dense* is its ratio in the same round. *Run* is the median of the last {last} of
{runs} inferences, *first* the very first. *Difference* is from the dense
file, over its largest output. Medians of wall times on a machine with other work, which makes all of them longer:
compare them with each other alone.

{forms}

The runtime itself, `ort-wasm-simd-threaded.wasm`, has {wasm} MB, {wasm_brotli} with brotli (quality 9, as all here).

Seconds from the request to the session: bytes by the speed of the line, and the least time of loading.

{ready}

The page `examples/web` itself, all files in one page, in the order of the table, in wall time ({about}):

{digits}

Made by `python -m benchmarks.web_page`. {machine} Raw results: `docs/results/web_page.json`.
"""


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
    lines = [HEAD]
    for title, row in rows.items():
        pairs = zip(row["pages"], rows["dense"]["pages"], strict=True)
        ratio = statistics.median(one["load"] / other["load"] for one, other in pairs)
        lines.append(
            (
                title,
                f"{row['bytes'] / 1e6:.2f}",
                f"{row['brotli'] / 1e6:.2f}",
                f"{middle(row, 'load'):.0f}",
                f"{ratio:.1f}",
                f"{middle(row, lambda page: page['runs'][0]):.0f}",
                f"{middle(row, settled):.0f}",
                f"{row['difference']:.0e}" if row["difference"] else "0",
            )
        )
    return table(*lines)


def ready_table(found: dict[str, Any]) -> str:
    """Seconds to a session by the speed of the line, files as they are and with brotli."""
    head = [f"{speed} Mbit/s{more}" for more in ("", ", brotli") for speed in SPEEDS]
    lines = [("form", *head)]
    for title, row in found["rows"].items():
        load = min(each["load"] for each in row["pages"]) / 1000
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
        about=found["about"],
        machine=machine(found["surroundings"]),
    )
