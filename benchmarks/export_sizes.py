"""Sizes, load time, memory and latency of every encoding and kind of values: the table in docs/results/export_sizes.md.

    python benchmarks/export_sizes.py                                   # all, about 15 minutes on one core
    python benchmarks/export_sizes.py --files gap/fp32 --sparsities 0.9 --loads 3 --no-zstd
    python benchmarks/export_sizes.py --model deit_small --sparsities 0.9

torchvision's resnet50, or timm's deit_small, with random weights, uniform magnitude pruning of every convolution and
linear layer, the first and last included, and batch norm statistics calibrated on random images. Each file is measured
against the dense file in the same run, in turns. Times are processor seconds, medians, one thread; `restless` is the
time of the clock over that of the processor for the dense file's runs, 1 on a machine with nothing else to do.
zstd-19 of the dense file needs the package `zstandard` (extra `bench`).
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torchvision
from torch import nn

from sparsify_fx import export, pack_onnx
from sparsify_fx.errors import SparsifyError
from sparsify_fx.onnx_export.checks.measure import Speed, measure
from sparsify_fx.onnx_export.report.export_report import ExportReport
from sparsify_fx.onnx_export.storage.codecs import VALUES

TARGETS = {0.9: {"fp32-packed": 9.5, "fp32": 8.3, "fp16": 14, "int8": 22}}
TARGETS[0.95] = {"fp32-packed": 17.5, "fp32": 15, "fp16": 24, "int8": 34}
IMAGE = 224
FILES = (
    *(f"gap/{values}" for values in VALUES),
    "gap/fp32/functions",
    "coo/fp32",
    "bitmask/fp32",
    "auto/fp32-packed",
)


@dataclass(frozen=True)
class Cell:
    """One file: its report, and ratios to the dense file."""

    name: str
    report: ExportReport
    speed: Speed


def network(name: str) -> nn.Module:
    """The model to prune, with random weights."""
    if name == "resnet50":
        return torchvision.models.resnet50()
    import timm

    return timm.create_model("deit_small_patch16_224")


def pruned(sparsity: float, seed: int, name: str = "resnet50") -> nn.Module:
    """The network with the smallest weights of every layer zero and its batch norms calibrated."""
    torch.manual_seed(seed)
    model = network(name)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight = module.weight.detach()
            kept = round((1 - sparsity) * weight.numel())
            order = weight.abs().flatten().argsort(descending=True, stable=True)
            weight.view(-1)[order[kept:]] = 0
        elif isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain average
    if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        with torch.no_grad():
            for _ in range(4):
                model.train()(torch.randn(8, 3, 96, 96))
    return model.eval()


def zstd_bytes(file: Path) -> int | None:
    """Bytes of the file after zstd -19; None without the package."""
    try:
        import zstandard  # type: ignore[import-not-found]
    except ImportError:
        return None
    return len(zstandard.ZstdCompressor(level=19).compress(file.read_bytes()))


def cells(dense: Path, options: argparse.Namespace, folder: Path) -> list[Cell]:
    """Every encoding with every kind of values, packed from the dense file and measured against it."""
    feed = {
        "x": np.random.default_rng(0)
        .standard_normal((1, 3, IMAGE, IMAGE))
        .astype(np.float32)
    }
    found = []
    for name in options.files:
        encoding, values, *more = name.split("/")
        packed, functions = folder / "packed.onnx", more == ["functions"]
        try:
            report = pack_onnx(
                dense,
                packed,
                encoding=encoding,
                values=values,
                functions=functions,
                inputs=feed,
            )
            speed = measure(
                dense, packed, feed, loads=options.loads, rounds=options.rounds
            )
        except SparsifyError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        found.append(Cell(name.replace("/", " "), report, speed))
        print(
            f"  {name}: {report.ratio:.2f}x, {speed.to_dict()}",
            file=sys.stderr,
            flush=True,
        )
    return found


def rows(
    sparsity: float, dense: Path, options: argparse.Namespace, folder: Path
) -> list[str]:
    """The lines of the table for one sparsity."""
    size = dense.stat().st_size
    lines = [
        f"| {sparsity:.0%} | dense | {size:,} | 1.00 | | | 1.00 | 1.00 | 1.00 | | |"
    ]
    done = cells(dense, options, folder)
    if done:
        bound = done[0].report.bytes_bound
        lines.append(
            f"| {sparsity:.0%} | entropy bound, raw fp32 | {bound:,.0f} | {size / bound:.2f} | | 1.00 | | | | | |"
        )
    zstd = zstd_bytes(dense) if options.zstd else None
    if zstd:
        lines.append(
            f"| {sparsity:.0%} | zstd -19 of dense | {zstd:,} | {size / zstd:.2f} | | | | | | | |"
        )
    for cell in done:
        encoding, values = cell.name.split()[:2]
        target = (
            TARGETS.get(sparsity, {}).get(values)
            if encoding == "gap" and options.model == "resnet50"
            else None
        )
        aim = "" if target is None else f"{target:g}"
        over = (
            f"{cell.report.bytes_file / cell.report.bytes_bound:.3f}"
            if VALUES[values].lossless
            else ""
        )
        difference, speed = cell.report.max_rel_difference, cell.speed
        busy = speed.latency_dense / speed.cpu_latency_dense
        shown = "" if difference is None else f"{difference:.0e}" if difference else "0"
        size_part = (
            f"{cell.report.bytes_file:,} | {cell.report.ratio:.2f} | {aim} | {over}"
        )
        speed_part = f"{speed.cpu_load_ratio:.2f} | {speed.peak_ratio:.2f} | {speed.cpu_latency_ratio:.3f}"
        lines.append(
            f"| {sparsity:.0%} | {cell.name} | {size_part} | {speed_part} | {shown} | {busy:.1f} |"
        )
    return lines


def main() -> None:
    """Print the table, and write it to --out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.9, 0.95])
    parser.add_argument(
        "--files", nargs="+", default=FILES, help="encoding/values, and /functions"
    )
    parser.add_argument(
        "--model", choices=["resnet50", "deit_small"], default="resnet50"
    )
    parser.add_argument(
        "--loads",
        type=int,
        default=7,
        help="loads of each file, of which the median counts",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=31,
        help="runs of each file, of which the median counts",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--zstd", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    titles = "sparsity, file, bytes, times smaller, target, to bound, load, peak memory, latency, difference, restless"
    table = [
        f"| {titles.replace(', ', ' | ')} |",
        "|" + "---|" * (titles.count(",") + 1),
    ]
    with tempfile.TemporaryDirectory() as name:
        for sparsity in options.sparsities:
            dense = Path(name) / "dense.onnx"
            model = pruned(sparsity, options.seed, options.model)
            export(model, dense, torch.randn(1, 3, IMAGE, IMAGE), encoding="dense")
            table += rows(sparsity, dense, options, Path(name))
    versions = f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    text = "\n".join([*table, "", f"{versions}, one thread, {platform.machine()}."])
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
