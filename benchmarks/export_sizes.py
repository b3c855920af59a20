"""Sizes, load time, memory and latency of encodings and kinds of values: docs/results/export_sizes.md and .json.

    python -m benchmarks.export_sizes                          # all, about 25 minutes on one core
    python -m benchmarks.export_sizes --only "resnet50, 95 %"  # one network, into the results of the others
    python -m benchmarks.export_sizes --keep FOLDER            # leave the files there, and take those that are there
    python -m benchmarks.export_sizes --page                   # only write the page from the results again

torchvision's resnet50, and timm's deit_small, with random weights, uniform magnitude pruning of every convolution and
linear layer, the first and last included, and batch norm statistics calibrated on random images. Each file is measured
against the dense file in the same run, in turns, and so is a second copy of the dense file. Times are seconds of the
processor, one thread; ratios are medians of those within a round. zstd -19 of the dense file needs `zstandard`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import torchvision
from torch import nn

from benchmarks.export_sizes_page import PAGE_FILE, RAW, page
from benchmarks.interleaved import latencies, loads
from sparsify_fx import export, pack_onnx
from sparsify_fx.onnx_export import inspect_file
from sparsify_fx.onnx_export.storage.codecs import VALUES
from sparsify_fx.training_cost.surroundings import surroundings

IMAGE = 224
ONE_FORM = ("gap/fp32", "gap/fp32-packed", "gap/fp16", "gap/int8")
SPARSE = tuple(f"auto/{values}" for values in VALUES)
ALL = {
    "onnx": (*ONE_FORM, "gap/fp32/functions", "coo/fp32", "bitmask/fp32", "auto/fp32-packed"),
    "onnxruntime": (*ONE_FORM, "bitmask/fp32"),
    "sparse-ort": SPARSE,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A network, and its files by target: encoding/values, and /functions. `timed`: how often each is loaded and run;
    (0, 0) leaves that out."""

    model: str
    sparsity: float
    files: dict[str, tuple[str, ...]]
    timed: tuple[int, int]


CASES = {
    "resnet50, 90 %": Case("resnet50", 0.9, ALL, (9, 9)),
    "resnet50, 95 %": Case("resnet50", 0.95, ALL, (0, 0)),
    "deit_small, 90 %": Case(
        "deit_small",
        0.9,
        {"onnx": ONE_FORM, "onnxruntime": ONE_FORM, "sparse-ort": SPARSE},
        (9, 7),
    ),
}


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


def measured(case: Case, folder: Path) -> dict[str, Any]:
    """Every file of a case, packed from the dense one, and what it takes against that."""
    dense = folder / "dense.onnx"
    files = {"dense": dense, "dense again": folder / "again.onnx"}
    if not dense.exists():
        example = torch.randn(1, 3, IMAGE, IMAGE)
        export(pruned(case.sparsity, 0, case.model), dense, example, encoding="dense")
    shutil.copyfile(dense, files["dense again"])
    draw = np.random.default_rng(0).standard_normal((1, 3, IMAGE, IMAGE))
    feed = {"x": draw.astype(np.float32)}
    rows: dict[str, Any] = {name: {"target": "", "file": name} for name in files}
    for target, names in case.files.items():
        for name in names:
            files[f"{target}: {name}"] = _packed(dense, target, name, feed)
            rows[f"{target}: {name}"] = {"target": target, "file": name}
    for name, file in files.items():
        rows[name]["bytes"] = file.stat().st_size
    if case.timed[0]:
        _time(rows, files, feed, case.timed)
    return {"rows": rows, "bound": _bound(dense), "zstd": zstd_bytes(dense)}


def _packed(dense: Path, target: str, name: str, feed: Any) -> Path:
    """The file of this target: encoding/values, and /functions; one that is there is not packed again."""
    encoding, values, *more = name.split("/")
    file = dense.with_name(f"{target}-{name.replace('/', '-')}.onnx")
    if not file.exists():
        report = pack_onnx(
            dense, file, encoding=encoding, values=values, target=target,
            functions=bool(more), inputs=feed, verify=False,
        )  # fmt: skip
        print(f"{target}: {name}: {report.ratio:.2f}", flush=True)
    return file


def _bound(dense: Path) -> float:
    """Bytes of the file with every weight at its entropy bound, values raw."""
    weights = [row for row in inspect_file(dense).layers if row.prunable]
    return dense.stat().st_size + sum(
        row.bytes_bound - row.bytes_dense for row in weights
    )


def _time(
    rows: dict[str, Any], files: dict[str, Path], feed: Any, timed: tuple[int, int]
) -> None:
    """Put loads and runs into the rows, in place."""
    for name, found in loads(files, timed[0]).items():
        rows[name] |= found
    for name, seconds in latencies(files, feed, timed[1]).items():
        rows[name]["run_s"] = seconds


def run(names: Iterable[str], kept: Path) -> dict[str, Any]:
    """The results of these cases, with what was there for others."""
    known = json.loads(RAW.read_text()) if RAW.exists() else {"cases": {}}
    for name in names:
        print(name, flush=True)
        case = CASES[name]
        folder = kept / f"{case.model}-{case.sparsity}"
        folder.mkdir(parents=True, exist_ok=True)
        known["cases"][name] = measured(case, folder)
    known["surroundings"] = surroundings()
    known["surroundings"]["versions"]["onnxruntime"] = onnxruntime.__version__
    return known


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--only", action="append", choices=list(CASES))
    parser.add_argument("--keep", type=Path, help="a folder for the files")
    options = parser.parse_args()
    if not options.page:
        with tempfile.TemporaryDirectory() as folder:
            results = run(options.only or CASES, options.keep or Path(folder))
        RAW.write_text(json.dumps(results, indent=1) + "\n")
    PAGE_FILE.write_text(page(json.loads(RAW.read_text())))


if __name__ == "__main__":
    main()
