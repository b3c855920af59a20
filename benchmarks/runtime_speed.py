"""How much faster sparse operators run than stock onnxruntime on the same pruned models, in turn in one process.

    python benchmarks/runtime_speed.py --models resnet50 --sparsities 0.8 0.9 0.95 0.98 --batches 1 8 --threads 1 2

Random weights with calibrated batch norms, pruned by magnitude: each layer alike, or with --mask global all together.
Every setting runs both sessions in turn; the ratio is that of medians, the second one of minima. `spread` is the
middle half of the dense times over their median: how restless the machine was.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import timm
import torch
from onnx import numpy_helper
from rich.console import Console
from rich.table import Table

from sparsify_fx import export, runtime


def exported(name: str) -> onnx.ModelProto:
    """A timm model at 224x224 with random weights, as dense ONNX with an open batch."""
    torch.manual_seed(0)
    model = timm.create_model(name)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the plain average of what it sees
            torch.nn.init.ones_(module.weight)  # of zeros, as timm begins, export would remove the whole block
    with torch.no_grad():
        model.train()(torch.randn(4, 3, 224, 224))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export(model.eval(), path, torch.randn(2, 3, 224, 224), encoding="dense")
        return onnx.load(path)


def pruned(dense: onnx.ModelProto, sparsity: float, mask: str) -> onnx.ModelProto:
    """The smallest weights of every layer (uniform) or of all layers together (global) at zero."""
    model = onnx.ModelProto()
    model.CopyFrom(dense)
    read = {node.input[1] for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")}
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in read and len(tensor.dims) > 1]
    weights = [numpy_helper.to_array(tensor) for tensor in tensors]
    overall = np.quantile(np.abs(np.concatenate([weight.ravel() for weight in weights])), sparsity)
    for tensor, weight in zip(tensors, weights, strict=True):
        limit = overall if mask == "global" else np.quantile(np.abs(weight), sparsity)
        tensor.CopyFrom(numpy_helper.from_array(np.where(np.abs(weight) < limit, np.float32(0), weight), tensor.name))
    return model


def open_session(model: onnx.ModelProto, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(runtime.library())
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def compare(dense: onnx.ModelProto, batch: int, threads: int, runs: int, autotune: bool) -> list[str]:
    """One row of the table: layers made sparse, times, ratios, error, spread."""
    sparse, names = runtime.to_sparse(dense, autotune=autotune, batch=batch, threads=threads)
    sessions = [open_session(model, threads) for model in (dense, sparse)]
    images = np.random.default_rng(0).standard_normal((batch, 3, 224, 224), np.float32)
    feed = {sessions[0].get_inputs()[0].name: images}
    expected, got = (session.run(None, feed)[0] for session in sessions)
    error = np.abs(got - expected).max() / np.abs(expected).max()
    times: list[list[float]] = [[], []]
    for _ in range(runs):
        for session, taken in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run(None, feed)
            taken.append(1e3 * (time.perf_counter() - start))
    (a, b), least = (statistics.median(taken) for taken in times), [min(taken) for taken in times]
    low, _, high = statistics.quantiles(times[0], n=4)
    cells = [f"{len(names)}", f"{a:.1f}", f"{b:.1f}", f"{a / b:.2f}", f"{least[0] / least[1]:.2f}", f"{error:.1e}"]
    return [*cells, f"{(high - low) / a:.0%}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet50"])
    parser.add_argument("--sparsities", nargs="+", type=float, default=[0.8, 0.9, 0.95, 0.98])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--mask", choices=["uniform", "global"], default="uniform")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--autotune", action="store_true")
    given = parser.parse_args()
    columns = ["model", "sparsity", "batch", "threads", "layers", "dense ms", "sparse ms"]
    columns += ["ratio", "of minima", "error", "spread"]
    table = Table(*columns, title=f"{runtime.instruction_set()}, onnxruntime {onnxruntime.__version__}, {given.mask}")
    for name in given.models:
        dense = exported(name)
        for sparsity in given.sparsities:
            model = pruned(dense, sparsity, given.mask)
            for batch in given.batches:
                for threads in given.threads:
                    row = compare(model, batch, threads, given.runs, given.autotune)
                    table.add_row(name, f"{sparsity}", f"{batch}", f"{threads}", *row)
                    print(name, sparsity, batch, threads, *row, flush=True)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
