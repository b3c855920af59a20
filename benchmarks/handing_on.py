"""What other tools keep of a sparse model's size and speed: docs/results/handing_on.md and .json.

    pip install binsparse coremltools executorch      # what is missing is told
    python -m benchmarks.handing_on                   # two minutes on one core
    python -m benchmarks.handing_on --page            # only write the page from the results again

A residual net for small images and a net of linear layers, fresh weights, pruned by magnitude: sizes and speeds
depend on which weights are zero, not on what the others are. Speeds are processor time of one thread,
dense and sparse in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import sparsify_fx
from benchmarks.training_cases import machine
from sparsify_fx import handing_on
from sparsify_fx.errors import ExportError
from sparsify_fx.handing_on.plain import bytes_of
from sparsify_fx.training_cost.surroundings import surroundings
from sparsify_fx.zoo.models.resnet_cifar import CifarResNet

FOLDER = Path(__file__).parents[1] / "docs/results"
RAW = FOLDER / "handing_on.json"
SPARSITY, ROUNDS = 0.9, 15
PACKAGES = ("torchao", "binsparse", "coremltools", "executorch", "onnxruntime")

PAGE = """# Handing on, measured

{about}

{table}

"compressed" is the file as zlib packs it, which is what packages of apps, wheels and downloads do. Speed is dense
over sparse processor time of the same tool on one thread, above 1 where the sparse model is faster; "-" where this
machine cannot run it.

Made by `python -m benchmarks.handing_on`. {machine} {versions}. Raw results: `docs/results/handing_on.json`.
"""


def convolutional() -> tuple[nn.Module, Tensor]:
    """ResNet-20, and a batch for it."""
    torch.manual_seed(0)
    return CifarResNet(3, 3, 10).eval(), torch.randn(1, 3, 32, 32)


def linear() -> tuple[nn.Module, Tensor]:
    """Three linear layers, whose sides 2:4 and groups of torchao divide."""
    torch.manual_seed(0)
    layers = [nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(1024, 128)).eval(), torch.randn(1, 512)


def pruned(make: Callable[[], tuple[nn.Module, Tensor]], **options: Any) -> nn.Module:
    """The net with zeros, by magnitude, merged."""
    given = {"sparsity": SPARSITY, "schedule": "at-init", **options}
    return sparsify_fx.merge(sparsify_fx.apply(make()[0], "magnitude", **given)).eval()


def compressed(path: Path) -> int:
    """Bytes after zlib."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(len(zlib.compress(file.read_bytes(), 6)) for file in files)


def ratio(dense: Callable[[], Any], sparse: Callable[[], Any]) -> float:
    """Median over rounds of dense over sparse processor time, in turn."""
    found = []
    for _ in range(ROUNDS):
        times = []
        for run in (dense, sparse):
            begin = time.process_time()
            for _ in range(5):
                run()
            times.append(time.process_time() - begin)
        found.append(times[0] / times[1])
    return statistics.median(found)


def row(dense: Path, sparse: Path, report: Any, speed: float | None) -> dict[str, Any]:
    """Sizes of the same model with and without zeros, as one tool writes both."""
    return {
        "dense": bytes_of(dense),
        "sparse": bytes_of(sparse),
        "dense_compressed": compressed(dense),
        "sparse_compressed": compressed(sparse),
        "zeros": report.zeros,
        "total": report.total,
        "speed": speed,
    }


def almost_dense(make: Callable[[], tuple[nn.Module, Tensor]]) -> nn.Module:
    """The dense net with one zero: the ways out refuse models without any."""
    model, _ = make()
    with torch.no_grad():
        next(p for p in model.parameters() if p.dim() > 1).view(-1)[0] = 0.0
    return model


def plain(folder: Path) -> dict[str, Any]:
    """torch.save, which is what everybody has."""
    paths = []
    for name, model in (
        ("dense", convolutional()[0]),
        ("sparse", pruned(convolutional)),
    ):
        paths.append(folder / f"{name}.pt")
        torch.save(model.state_dict(), paths[-1])
    weights = handing_on.plain.prunable(pruned(convolutional))
    report = handing_on.HandedOn(
        paths[1], 0, 0, handing_on.plain.zeros_of(weights),
        sum(w.numel() for w in weights.values()), 0,
    )  # fmt: skip
    net, x = pruned(convolutional), convolutional()[1]
    other = convolutional()[0]
    with torch.no_grad():
        speed = ratio(lambda: other(x), lambda: net(x))
    return row(paths[0], paths[1], report, speed)


def binsparse(folder: Path) -> dict[str, Any]:
    dense, sparse = folder / "dense.h5", folder / "sparse.h5"
    handing_on.save_binsparse(almost_dense(convolutional), dense)
    report = handing_on.save_binsparse(pruned(convolutional), sparse)
    return row(dense, sparse, report, None)


def coreml(folder: Path) -> dict[str, Any]:
    _, x = convolutional()
    dense, sparse = folder / "dense.mlpackage", folder / "sparse.mlpackage"
    handing_on.save_coreml(almost_dense(convolutional), dense, x)
    report = handing_on.save_coreml(pruned(convolutional), sparse, x)
    return row(dense, sparse, report, None)


def executorch(folder: Path) -> dict[str, Any]:
    from executorch.runtime import Runtime

    _, x = convolutional()
    dense, sparse = folder / "dense.pte", folder / "sparse.pte"
    handing_on.save_executorch(almost_dense(convolutional), dense, x)
    report = handing_on.save_executorch(pruned(convolutional), sparse, x)
    load = Runtime.get().load_program
    first, second = (load(str(p)).load_method("forward") for p in (dense, sparse))
    speed = ratio(lambda: first.execute([x]), lambda: second.execute([x]))
    return row(dense, sparse, report, speed)


def torchao(folder: Path) -> dict[str, Any]:
    from torchao.quantization import Int8WeightOnlyConfig

    made, paths = [], []
    for name, model in (("dense", almost_dense(linear)), ("sparse", pruned(linear))):
        report = handing_on.quantize(model, Int8WeightOnlyConfig())
        paths.append(folder / f"{name}.pt")
        torch.save(model.state_dict(), paths[-1])
        made.append(model)
    x = linear()[1]
    with torch.no_grad():
        speed = ratio(lambda: made[0](x), lambda: made[1](x))
    return row(paths[0], paths[1], report, speed)


def two_four(folder: Path) -> dict[str, Any]:
    """What the pattern would take on a GPU: half of the values in 16 bits, and two bits for each of those."""
    model = pruned(linear, allocation="n:m", sparsity=0.5)
    found = handing_on.semi_structured_layers(model)
    weights = [model.get_parameter(name) for name in found.layers]
    total = sum(weight.numel() for weight in weights)
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    size = total // 2 * 2 + total // 2 * 2 // 8
    return {
        "dense": 2 * total, "sparse": size, "dense_compressed": None, "sparse_compressed": None,
        "zeros": zeros, "total": total, "speed": None,
    }  # fmt: skip


def ours(folder: Path) -> dict[str, Any]:
    """sparsify_fx.export, with and without sparse kernels, for comparison."""
    import onnxruntime

    net, x = convolutional()
    dense, sparse = folder / "dense.onnx", folder / "sparse.onnx"
    sparsify_fx.export(net, dense, x)
    sparsify_fx.export(pruned(convolutional), sparse, x)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    first, second = (onnxruntime.InferenceSession(p, options) for p in (dense, sparse))
    feed = {first.get_inputs()[0].name: x.numpy()}
    speed = ratio(lambda: first.run(None, feed), lambda: second.run(None, feed))
    weights = handing_on.plain.prunable(pruned(convolutional))
    report = handing_on.HandedOn(
        sparse, 0, 0, handing_on.plain.zeros_of(weights),
        sum(w.numel() for w in weights.values()), 0,
    )  # fmt: skip
    return row(dense, sparse, report, speed)


WAYS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "torch.save (nothing kept)": plain,
    "sparsify_fx.export, ONNX": ours,
    "binsparse, HDF5": binsparse,
    "Core ML, sparse weights": coreml,
    "ExecuTorch, XNNPACK": executorch,
    "torchao int8, linear layers": torchao,
    "torch 2:4 in float16, linear layers": two_four,
}


def measure() -> dict[str, Any]:
    """Every way out that is installed."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    rows: dict[str, Any] = {}
    for name, way in WAYS.items():
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                rows[name] = way(Path(folder))
            except (ExportError, ImportError) as error:
                rows[name] = {"missing": str(error)}
        print(f"{name}: {rows[name]}", flush=True)
    return {"surroundings": surroundings(), "versions": versions, "rows": rows}


def page(results: dict[str, Any]) -> str:
    """The page as Markdown."""
    lines = [
        "| way | dense, KB | sparse, KB | compressed, KB | zeros kept | speed |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in results["rows"].items():
        if "missing" in found:
            lines.append(f"| {name} | {found['missing']} | | | | |")
            continue
        packed = "-"
        if found["sparse_compressed"]:
            packed = f"{found['dense_compressed'] / 1e3:,.0f} → {found['sparse_compressed'] / 1e3:,.0f}"
        speed = "-" if found["speed"] is None else f"{found['speed']:.2f}"
        zeros = f"{found['zeros']:,} of {found['total']:,}"
        sizes = f"{found['dense'] / 1e3:,.0f} | {found['sparse'] / 1e3:,.0f}"
        lines.append(f"| {name} | {sizes} | {packed} | {zeros} | {speed} |")
    about = (
        f"ResNet-20 for images of 32 x 32, and three linear layers where a tool takes those alone, "
        f"{100 * SPARSITY:g} % zeros by magnitude (2:4: half), as each tool writes it with and without its zeros."
    )
    known = {name: number for name, number in results["versions"].items() if number}
    return PAGE.format(
        about=about,
        table="\n".join(lines),
        machine=machine(results["surroundings"]),
        versions=", ".join(f"{name} {number}" for name, number in known.items()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", action="store_true", help="only write the page")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.page:
        RAW.write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8")
    found = json.loads(RAW.read_text(encoding="utf-8"))
    (FOLDER / "handing_on.md").write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
