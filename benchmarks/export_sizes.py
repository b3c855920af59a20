"""Sizes, load time, memory and latency of every encoding and kind of values: the table in docs/results/export_sizes.md.

    python benchmarks/export_sizes.py                                   # all, about 15 minutes on one core
    python benchmarks/export_sizes.py --encodings gap --values fp32 --sparsities 0.9 --loads 3 --no-zstd

torchvision's resnet50 with random weights, uniform magnitude pruning of every convolution and linear layer, the first
and last included, and batch norm statistics calibrated on random images. Each file is measured against the dense file
in the same run, in turns. zstd-19 of the dense file needs the package `zstandard` (extra `bench`).
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
from sparsify_fx.onnx_export.codecs import ENCODINGS, VALUES
from sparsify_fx.onnx_export.measure import measure
from sparsify_fx.onnx_export.report import ExportReport

TARGETS = {0.9: {"fp32-packed": 9.5, "fp32": 8.3, "fp16": 14, "int8": 22}}
TARGETS[0.95] = {"fp32-packed": 17.5, "fp32": 15, "fp16": 24, "int8": 34}
IMAGE = 224


@dataclass(frozen=True)
class Cell:
    """One file: its report, and ratios to the dense file."""

    name: str
    report: ExportReport
    load: float
    peak: float
    latency: float


def pruned(sparsity: float, seed: int) -> nn.Module:
    """resnet50 with the smallest weights of every layer zero and its batch norms calibrated."""
    torch.manual_seed(seed)
    model = torchvision.models.resnet50()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight = module.weight.detach()
            kept = round((1 - sparsity) * weight.numel())
            order = weight.abs().flatten().argsort(descending=True, stable=True)
            weight.view(-1)[order[kept:]] = 0
        elif isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain average
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
    feed = {"x": np.random.default_rng(0).standard_normal((1, 3, IMAGE, IMAGE)).astype(np.float32)}
    found = []
    for encoding in options.encodings:
        for values in options.values:
            for functions in (False, True) if (encoding, values) == ("gap", "fp32") else (False,):
                packed = folder / "packed.onnx"
                name = f"{encoding} {values}" + (" (functions)" if functions else "")
                try:
                    report = pack_onnx(
                        dense, packed, encoding=encoding, values=values, functions=functions, inputs=feed
                    )
                    speed = measure(dense, packed, feed, loads=options.loads, rounds=options.rounds)
                except SparsifyError as error:
                    print(f"{name}: {error}", file=sys.stderr)
                    continue
                found.append(Cell(name, report, speed.load_ratio, speed.peak_ratio, speed.latency_ratio))
                print(f"  {name}: {report.ratio:.2f}x", file=sys.stderr, flush=True)
    return found


def rows(sparsity: float, dense: Path, options: argparse.Namespace, folder: Path) -> list[str]:
    """The lines of the table for one sparsity."""
    size = dense.stat().st_size
    lines = [f"| {sparsity:.0%} | dense | {size:,} | 1.00 | | | 1.00 | 1.00 | 1.00 | |"]
    done = cells(dense, options, folder)
    if done:
        bound = done[0].report.bytes_bound
        lines.append(
            f"| {sparsity:.0%} | entropy bound, raw fp32 | {bound:,.0f} | {size / bound:.2f} | | 1.00 | | | | |"
        )
    zstd = zstd_bytes(dense) if options.zstd else None
    if zstd:
        lines.append(f"| {sparsity:.0%} | zstd -19 of dense | {zstd:,} | {size / zstd:.2f} | | | | | | |")
    for cell in done:
        encoding, values = cell.name.split()[:2]
        target = TARGETS.get(sparsity, {}).get(values) if encoding == "gap" else None
        aim = "" if target is None else f"{target:g}"
        over = f"{cell.report.bytes_file / cell.report.bytes_bound:.3f}" if VALUES[values].lossless else ""
        difference = cell.report.max_rel_difference
        shown = "" if difference is None else f"{difference:.0e}" if difference else "0"
        lines.append(
            f"| {sparsity:.0%} | {cell.name} | {cell.report.bytes_file:,} | {cell.report.ratio:.2f} | {aim} | {over} | "
            f"{cell.load:.2f} | {cell.peak:.2f} | {cell.latency:.3f} | {shown} |"
        )
    return lines


def main() -> None:
    """Print the table, and write it to --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.9, 0.95])
    parser.add_argument("--encodings", nargs="+", default=["auto", *ENCODINGS])
    parser.add_argument("--values", nargs="+", default=[*VALUES])
    parser.add_argument("--loads", type=int, default=5, help="loads of each file, of which the median counts")
    parser.add_argument("--rounds", type=int, default=15, help="runs of each file, of which the median counts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--zstd", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    table = [
        "| sparsity | file | bytes | times smaller | target | to bound | load | peak memory | latency | difference |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as name:
        for sparsity in options.sparsities:
            dense = Path(name) / "dense.onnx"
            model = pruned(sparsity, options.seed)
            export(model, dense, torch.randn(1, 3, IMAGE, IMAGE), encoding="dense")
            table += rows(sparsity, dense, options, Path(name))
    versions = f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    text = "\n".join([*table, "", f"{versions}, one thread, {platform.machine()}."])
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
