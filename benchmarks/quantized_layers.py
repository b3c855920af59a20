"""Quantized models with sparse layers between activations in 8 bits: docs/results/quantized_layers.md and .json.

    python -m benchmarks.quantized_layers --make FOLDER      # the files, some minutes
    python -m benchmarks.quantized_layers --measure FOLDER   # a minute on one core
    python -m benchmarks.quantized_layers --page             # only write the page from the results again

torchvision's networks, fresh weights, 90 % zeros by magnitude in every layer, quantized by onnxruntime to QDQ with a
scale for each channel, calibrated on random images. Every file runs in turn with the others, in one process, by the
processor's time.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import torchvision

import sparsify_fx
from benchmarks.interleaved import latencies, ratio
from benchmarks.quantized import images, ways
from benchmarks.training_cases import machine, table, write
from sparsify_fx import runtime
from sparsify_fx.onnx_export import pack_onnx
from sparsify_fx.onnx_export.checks.verify import Runtime
from sparsify_fx.training_cost.surroundings import surroundings

RAW = Path(__file__).parents[1] / "docs/results/quantized_layers.json"
NETWORKS = ("resnet18", "resnet50")
FILES = {
    "float": "float32, dense",
    "float-sparse": "float32, `sparse-ort`",
    "qdq": "QDQ",
    "as-it-was": "QDQ, packed for `onnxruntime`: layers stay as they were",
    "sparse": "QDQ, `sparse-ort`: by estimate",
    "all": "QDQ, every layer sparse",
}
ROUNDS = 21

PAGE = """# Sparse layers in quantized models, measured

torchvision's networks at 90 % zeros, quantized by onnxruntime to QDQ (int8 weights with a scale for each channel,
uint8 activations). *Run* is the time over that of the QDQ file as onnxruntime runs it, in integers; times are of the
processor, one thread, medians of the ratios within a round. *From its meaning* is how far outputs are from those of
the QDQ file where onnxruntime computes it in float32 (`session.disable_quant_qdq`), as a fraction of the largest: what
falls on the other side of a rounding to 8 bits, and what onnxruntime's integers do besides.

{table}

onnxruntime's two ways to compute the QDQ file in float32, with and without optimizations, differ by {own}. On a
processor without dot products of bytes, as here, its integer kernels can be further away, where weights and activations
are large. Nothing was measured on processors with these instructions, where integers should be faster; `--measure`
finds out there.

Made by `python -m benchmarks.quantized_layers`. {machine} Raw results: `docs/results/quantized_layers.json`.
"""


def make(folder: Path, networks: Sequence[str]) -> None:
    """All files of these networks."""
    logging.getLogger().setLevel(logging.ERROR)
    for name in networks:
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        files = {key: place / f"{key}.onnx" for key in FILES}
        torch.manual_seed(0)
        pruned = sparsify_fx.apply(
            getattr(torchvision.models, name)(), "magnitude", sparsity=0.9, schedule="at-init", allocation="uniform"
        )  # fmt: skip
        net = sparsify_fx.merge(pruned).eval()
        sparsify_fx.export(net, files["float"], torch.randn(1, 3, 224, 224), encoding="dense")  # fmt: skip
        ways()["QDQ"](files["float"], files["qdq"])
        given = {"x": images(1)[0]}
        pack_onnx(files["float"], files["float-sparse"], target="sparse-ort", inputs=given)  # fmt: skip
        pack_onnx(files["qdq"], files["as-it-was"], target="onnxruntime", inputs=given)
        pack_onnx(files["qdq"], files["sparse"], target="sparse-ort", inputs=given)
        every, _ = runtime.to_sparse(
            onnx.load(files["qdq"]), timed=lambda _: runtime.Times(1e9, 1.0)
        )
        onnx.save(every, files["all"])


def measured(place: Path) -> dict[str, Any]:
    """Seconds, bytes, sparse layers and differences of the files of one network."""
    files = {key: place / f"{key}.onnx" for key in FILES}
    feed = {"x": images(1)[0]}
    meaning = outputs(files["qdq"], in_floats=True)
    rows: dict[str, Any] = {
        key: {
            "run_s": seconds,
            "bytes": files[key].stat().st_size,
            "sparse_layers": len(runtime.sparse_weights(onnx.load(files[key]))),
            "from_meaning": difference(meaning, outputs(files[key])),
        }
        for key, seconds in latencies(files, feed, ROUNDS).items()
    }
    own = difference(meaning, outputs(files["qdq"], optimized=False))
    return {"files": rows, "own": own}


def outputs(file: Path, **how: bool) -> np.ndarray:
    session = Runtime(file, runtime.library(), **how)
    return np.asarray(session.run_feed({"x": images(1)[0]})[0])


def difference(expected: np.ndarray, got: np.ndarray) -> float:
    return float(np.abs(expected - got).max() / np.abs(expected).max())


def page(results: dict[str, Any]) -> str:
    lines = [("network", "file", "bytes", "sparse layers", "run", "from its meaning")]
    for name, found in results["networks"].items():
        first = found["files"]["qdq"]["run_s"]
        for key, row in found["files"].items():
            cells = (
                f"{row['bytes']:,}",
                str(row["sparse_layers"]),
                f"{ratio(row['run_s'], first):.2f}",
                f"{row['from_meaning']:.1e}",
            )
            lines.append((name, FILES[key], *cells))
    own = " and ".join(f"{each['own']:.1e}" for each in results["networks"].values())
    about = machine(results["surroundings"])
    return PAGE.format(table=table(*lines), own=own, machine=about)


def run(folder: Path, networks: Sequence[str]) -> dict[str, Any]:
    found = {name: measured(folder / name) for name in networks}
    about = surroundings()
    about["versions"]["onnxruntime"] = onnxruntime.__version__
    return {"surroundings": about, "networks": found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--make", type=Path)
    parser.add_argument("--measure", type=Path)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--page", action="store_true")
    torch.set_num_threads(1)
    given = parser.parse_args()
    if given.make:
        make(given.make, given.networks)
    elif given.measure or given.page:
        results = (
            json.loads(RAW.read_text())
            if given.page
            else run(given.measure, given.networks)
        )
        write("quantized_layers", results, page(results))
    else:
        parser.error("expected --make FOLDER, then --measure FOLDER, or --page")


if __name__ == "__main__":
    main()
