"""The page docs/results/export_sizes.md, out of the results in export_sizes.json."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.interleaved import ratio
from benchmarks.training_cases import machine, table

FOLDER = Path(__file__).parents[1] / "docs/results"
RAW, PAGE_FILE = FOLDER / "export_sizes.json", FOLDER / "export_sizes.md"

WANTED = {
    "resnet50, 90 %": {"fp32-packed": 9.5, "fp32": 8.3, "fp16": 14, "int8": 22},
    "resnet50, 95 %": {"fp32-packed": 17.5, "fp32": 15, "fp16": 24, "int8": 34},
}
"""How many times smaller the encoding gap was built to make the file; sparse operators' int8 20 times at 90 %."""

INTRODUCTION = """# Sizes of packed ONNX files

torchvision's resnet50 and timm's deit_small with random weights, batch norms calibrated, uniform magnitude pruning of
every convolution and linear layer, the first and last included. Load, memory and latency are ratios to the dense file
in the same run; times are of the processor, one thread, medians of the ratios within a round, and memory is what
loading adds to the process. *Dense again* is a second copy of the dense file: how far its ratios are from 1 is what the
machine does by itself. *Wanted* is what the encoding was built to reach, *to the bound* the bytes over the entropy
bound with raw fp32 values, with which values that lose nothing can be compared.
"""

CODED = """## Kinds of values in sparse operators

The files of the target `sparse-ort` against the one with fp32 values: kernels compute with the same float32 numbers,
which are decoded once, when the session is created.
"""

END = """## What the figures say

- **COO** does not load faster than the dense file: onnxruntime makes a dense tensor of it first.
- **Memory**: with the target `onnxruntime` weights are rebuilt in rounds ([how](../onnx.md#encodings-and-values)); in
  the form for all runtimes they are not, and take more while the file loads.

`benchmarks/large_model.py` packs 2.28 GB of weights in external data with its data segment limited to 2.0 GB.

Made by `python -m benchmarks.export_sizes`. {machine} Raw results: `docs/results/export_sizes.json`.
`python benchmarks/old_runtime.py PYTHON` opens every file in the onnxruntime of another interpreter.
"""


def page(results: Mapping[str, Any]) -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for name, case in results["cases"].items():
        parts += [f"## {name} zeros", _about(case), _sizes(name, case)]
    parts.append(CODED)
    for name, case in results["cases"].items():
        if "run_s" in case["rows"]["dense"]:
            parts += [f"{name} zeros:", _coded(case["rows"])]
    parts.append(END.format(machine=machine(results["surroundings"])).strip())
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _about(case: Mapping[str, Any]) -> str:
    rows = case["rows"]
    bound = case["bound"]
    text = f"{rows['dense']['bytes']:,} bytes dense, {bound:,.0f} at the entropy bound with raw fp32 values"
    if case["zstd"]:
        share = rows["dense"]["bytes"] / case["zstd"]
        text += f"; zstd -19 of the dense file makes {case['zstd']:,} ({share:.2f} times smaller)"
    return text + "."


def _sizes(name: str, case: Mapping[str, Any]) -> str:
    rows, bound = case["rows"], case["bound"]
    timed = "load_s" in rows["dense"]
    head = ["target", "file", "bytes", "times smaller", "wanted", "to the bound"]
    lines = [(*head, *(["load", "peak memory", "latency"] if timed else []))]
    for key, row in rows.items():
        if key == "dense" or (key == "dense again" and not timed):
            continue
        encoding, _, values = row["file"].partition("/")
        aim = WANTED.get(name, {}).get(values, "") if encoding == "gap" else ""
        if key == f"sparse-ort: {encoding}/int8" and name == "resnet50, 90 %":
            aim = 20
        lossless = values.startswith("fp32")
        cells = [
            f"`{row['target']}`" if row["target"] else "",
            f"`{row['file'].replace('/', ' ')}`" if row["target"] else key,
            f"{row['bytes']:,}",
            f"{rows['dense']['bytes'] / row['bytes']:.2f}",
            str(aim),
            f"{row['bytes'] / bound:.3f}" if lossless else "",
        ]
        lines.append((*cells, *(_speed(row, rows["dense"]) if timed else [])))
    return table(*lines)


def _speed(row: Mapping[str, Any], dense: Mapping[str, Any]) -> list[str]:
    """Load, memory and latency as multiples of another file's."""
    peaks = [statistics.median(each["peak_bytes"]) for each in (row, dense)]
    return [
        f"{ratio(row['load_s'], dense['load_s']):.2f}",
        f"{peaks[0] / peaks[1]:.2f}",
        f"{ratio(row['run_s'], dense['run_s']):.3f}",
    ]


def _coded(rows: Mapping[str, Any]) -> str:
    """Kinds of values against fp32, all in sparse operators."""
    lines = [("values", "bytes", "to fp32", "load", "peak memory", "latency")]
    plain = rows["sparse-ort: auto/fp32"]
    for row in rows.values():
        if row["target"] == "sparse-ort":
            cells = (
                row["file"].split("/")[1],
                f"{row['bytes']:,}",
                f"{row['bytes'] / plain['bytes']:.3f}",
            )
            lines.append((*cells, *_speed(row, plain)))
    return table(*lines)
