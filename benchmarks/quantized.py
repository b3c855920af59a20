"""Packed files of quantized models against the models themselves: docs/results/quantized.md and .json.

    python -m benchmarks.quantized          # five minutes on one core
    python -m benchmarks.quantized --page   # only write the page from the results again

torchvision's resnet18, fresh weights, 90 % zeros by magnitude in every layer, quantized by onnxruntime to 8 bits in its
three ways: QDQ, QOperator (both calibrated on random images, a scale for each channel) and dynamic. Each file runs in
turn with a second copy of the quantized one and with what `pack` makes of it, in one process, by the processor's time.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from benchmarks.decode_forms import write_dense
from benchmarks.interleaved import latencies, loads, ratio
from benchmarks.training_cases import machine, table, write
from sparsify_fx import runtime
from sparsify_fx.onnx_export import pack_onnx
from sparsify_fx.training_cost.surroundings import surroundings

RAW = Path(__file__).parents[1] / "docs/results/quantized.json"
TARGETS = ("onnx", "onnxruntime", "sparse-ort")
SHAPE = (1, 3, 224, 224)
LOADS, ROUNDS = 7, 21

PAGE = """# Quantized models, measured

torchvision's resnet18 at 90 % zeros, quantized by onnxruntime to 8 bits, and what `pack` makes of it. Sizes, loads and
runs are ratios to the quantized file; *again* is a second copy of that. Times are of the processor, one thread, medians
of the ratios within a round. *Same bits* says whether all outputs are those of the quantized file.

{table}

With the target `sparse-ort` operators in integers (QOperator, dynamic) stay as they are, and the report says so. Layers
of QDQ files may become sparse ones: [measured](quantized_layers.md).

Made by `python -m benchmarks.quantized`. {machine} Raw results: `docs/results/quantized.json`.
"""


class Samples(CalibrationDataReader):  # type: ignore[misc]
    """Four random images."""

    def __init__(self) -> None:
        self.left = iter(images(4))

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        image = next(self.left, None)
        return None if image is None else {"x": image}


def images(count: int) -> list[NDArray[np.float32]]:
    random = np.random.default_rng(0)
    return [random.standard_normal(SHAPE).astype(np.float32) for _ in range(count)]


def ways() -> dict[str, Callable[[Path, Path], None]]:
    """onnxruntime's quantizers by name: each reads one file and writes another."""

    def static(form: QuantFormat, source: Path, target: Path) -> None:
        quantize_static(
            source, target, Samples(), quant_format=form, per_channel=True,
            weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8,
        )  # fmt: skip

    return {
        "QDQ": partial(static, QuantFormat.QDQ),
        "QOperator": partial(static, QuantFormat.QOperator),
        "dynamic": partial(quantize_dynamic, weight_type=QuantType.QUInt8),
    }


def measured(quantize: Callable[[Path, Path], None], folder: Path) -> dict[str, Any]:
    """One way of quantizing: its file, and every packed one."""
    first = folder / "quantized.onnx"
    quantize(folder / "dense.onnx", first)
    files = {"quantized": first, "again": folder / "again.onnx"}
    shutil.copyfile(first, files["again"])
    rows: dict[str, Any] = {name: {"notes": []} for name in files}
    for target in TARGETS:
        files[target] = folder / f"{target}.onnx"
        report = pack_onnx(
            first, files[target], target=target, inputs={"x": images(1)[0]}
        )
        rows[target] = {
            "notes": list(report.notes),
            "sparse_layers": len(report.sparse_layers),
        }
    (image,) = images(1)
    expected = outputs(first, image)
    for name, found in loads(files, LOADS).items():
        rows[name] |= found | {"bytes": files[name].stat().st_size}
        rows[name]["same_bits"] = outputs(files[name], image) == expected
    for name, seconds in latencies(files, {"x": image}, ROUNDS).items():
        rows[name]["run_s"] = seconds
    return rows


def outputs(file: Path, image: NDArray[np.float32]) -> list[bytes]:
    """The bits of all outputs."""
    session = runtime.session(file, threads=1)
    return [each.tobytes() for each in session.run(None, {"x": image})]


def page(results: dict[str, Any]) -> str:
    lines = [("quantized", "file", "bytes", "size", "load", "run", "same bits")]
    for way, rows in results["ways"].items():
        first = rows["quantized"]
        for name, row in rows.items():
            if (way, name) == ("QDQ", "sparse-ort"):
                continue  # benchmarks/quantized_layers.py has them
            cells = (
                f"{row['bytes']:,}",
                f"{row['bytes'] / first['bytes']:.3f}",
                f"{ratio(row['load_s'], first['load_s']):.2f}",
                f"{ratio(row['run_s'], first['run_s']):.3f}",
                "yes" if row["same_bits"] else "no",
            )
            lines.append((way, name, *cells))
    about = machine(results["surroundings"])
    return PAGE.format(table=table(*lines), machine=about)


def run() -> dict[str, Any]:
    logging.getLogger().setLevel(logging.ERROR)
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dense(folder / "dense.onnx")
        for way, quantize in ways().items():
            found[way] = measured(quantize, folder)
            print(way, {name: row["bytes"] for name, row in found[way].items()})
    about = surroundings()
    about["versions"]["onnxruntime"] = onnxruntime.__version__
    return {"surroundings": about, "ways": found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", action="store_true")
    torch.set_num_threads(1)
    results = json.loads(RAW.read_text()) if parser.parse_args().page else run()
    write("quantized", results, page(results))


if __name__ == "__main__":
    main()
