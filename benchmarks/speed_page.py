"""The page of `benchmarks.speed_table`: docs/results/runtime_speed.md."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.openvino_runs import NAME as OPENVINO
from benchmarks.training_cases import machine, table
from sparsify_fx.training_cost.surroundings import surroundings

NAME = "runtime_speed"
DENSE, AGAIN, INT8 = "dense", "dense again", "static int8"
SPARSE, SPARSE_INT8 = "sparse", "sparse, int8 values"

HEAD = """# Speed in onnxruntime, measured

How many times as fast as the dense file in stock onnxruntime: medians of the ratios within a round, in which each case
runs in turn. One thread by processor time, two by the clock. *Dense again* is noise; *static int8* is the same pruned
model quantized by onnxruntime (QDQ, a scale for each channel); OpenVINO runs the dense file in a process of its own.
*Sparse* is what `pack --target sparse-ort` writes, and *fastest* compares the fastest rounds of sparse and dense.

{rows}

Made with `python -m benchmarks.speed_table`; all samples are in [the raw results](runtime_speed.json). OpenVINO
{openvino}. {machine}
"""


def page(results: Mapping[str, Any], order: Sequence[str]) -> str:
    """The page of these results, rows in this order."""
    names = [name for name in order if name in results]
    cases = (AGAIN, OPENVINO, INT8, SPARSE, SPARSE_INT8)
    rows: list[tuple[str, ...]] = [
        ("model", "zeros", "batch", "threads", "dense ms", *cases, "fastest", "wanted")
    ]
    for name in names:
        each = results[name]
        seconds = each["processor" if each["threads"] == 1 else "clock"]
        dense = seconds[DENSE]
        zeros = f"{100 * each['sparsity']:g} %"
        if each["mask"] != "uniform":
            zeros += f", {each['mask']}"
        rows.append(
            (
                each["model"],
                zeros,
                str(each["batch"]),
                str(each["threads"]),
                f"{1e3 * statistics.median(dense):.1f}",
                *(_times(dense, seconds.get(case)) for case in cases),
                f"{min(dense) / min(seconds[SPARSE]):.2f}",
                f"{each['wanted']:.1f}" if each["wanted"] else "",
            )
        )
    around = [results[name]["surroundings"] for name in names] or [surroundings()]
    # Rows may have been measured one by one.
    commits = ", ".join(dict.fromkeys(each["commit"] for each in around))
    versions = {results[name]["openvino"] for name in names} - {None}
    return HEAD.format(
        rows=table(*rows),
        openvino=", ".join(sorted(versions)) or "was not there",
        machine=machine({**around[0], "commit": commits}),
    )


def _times(dense: Sequence[float], other: Sequence[float] | None) -> str:
    """How many times as fast as dense, the median of rounds."""
    if other is None:
        return ""
    return f"{statistics.median(d / o for d, o in zip(dense, other, strict=True)):.2f}"
