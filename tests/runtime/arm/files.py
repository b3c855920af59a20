"""Small sparse-ort files with every operator and every kind of values, the dense models, inputs, and outputs here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

import sparsify_fx
from sparsify_fx import runtime
from sparsify_fx.onnx_export import pack_onnx
from tests.runtime.sparse_files import X, net
from tests.runtime.test_attention import Block, fused
from tests.runtime.test_attention import X as TOKENS
from tests.runtime.test_layouts import Inverted
from tests.runtime.test_planes import Residual

VALUES = "fp32", "fp16", "int8", "fp32-packed"


class Downsampled(nn.Module):
    """A residual block whose shortcut is a 1x1 convolution, pooling after it, and a convolution in one dimension."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 24, 7, 2, 3)
        self.first = nn.Conv2d(24, 40, 1)
        self.second = nn.Conv2d(40, 40, 1)
        self.shortcut = nn.Conv2d(24, 40, 1, stride=2)
        self.third = nn.Conv2d(40, 40, 1, stride=2)
        self.fourth = nn.Conv2d(40, 40, 3)
        self.line = nn.Conv1d(40, 12, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(nn.functional.max_pool2d(self.stem(x), 2))
        x = torch.relu(self.third(self.second(self.first(x))) + self.shortcut(x))
        x = self.fourth(nn.functional.max_pool2d(x, 2))
        return nn.functional.silu(self.line(x.flatten(2)))


def write_files(folder: Path) -> tuple[list[str], set[str]]:
    """Write all files into the folder; their names, and the sparse operators in them."""
    kinds: dict[str, tuple[nn.Module, torch.Tensor]] = {
        "planes": (Residual(), torch.randn(2, 3, 20, 20)),
        "depthwise": (Inverted(), torch.randn(1, 3, 56, 56)),
        "sum": (Downsampled(), torch.randn(1, 3, 64, 64)),
        "attention": (Block(fused), TOKENS),
    }
    found: set[str] = set()
    for name, (model, x) in kinds.items():
        place = folder / name
        place.mkdir()
        sparsify_fx.export(
            _pruned(model), place / "dense.onnx", x, encoding="dense", optimize=False
        )
        dense = onnx.load(str(place / "dense.onnx"))
        sparse, _ = runtime.to_sparse(dense, timed=_always)
        onnx.save(sparse, str(place / "sparse.onnx"))
        found |= _finish(place, x.numpy())
    for values in VALUES:
        place = folder / values
        place.mkdir()
        sparsify_fx.export(net(), place / "dense.onnx", X, encoding="dense")
        pack_onnx(
            place / "dense.onnx",
            place / "sparse.onnx",
            target="sparse-ort",
            values=values,
            inputs=_named(place, X.numpy()),
        )
        found |= _finish(place, X.numpy())
    return [*kinds, *VALUES], found


def _always(layer: runtime.Candidate) -> runtime.Times:
    return runtime.Times(1e9, 1.0)


def _pruned(model: nn.Module, density: float = 0.3) -> nn.Module:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter *= torch.rand(parameter.shape) < density
    return model.eval()


def _named(place: Path, x: np.ndarray) -> dict[str, np.ndarray]:
    """The input by its name in the dense file."""
    return {onnx.load(str(place / "dense.onnx")).graph.input[0].name: x}


def _finish(place: Path, x: np.ndarray) -> set[str]:
    """Inputs and the outputs of both files beside them; the operators of the sparse one."""
    feed = _named(place, x)
    np.savez(place / "inputs.npz", **feed)
    # Weights of less than 32 bits are rounded, so the model to compare with is what the file unpacks to.
    sparse = onnx.load(str(place / "sparse.onnx"))
    onnx.save(runtime.to_dense(sparse), str(place / "dense.onnx"))
    outputs = runtime.session(place / "sparse.onnx", threads=1).run(None, feed)
    assert all(np.unique(each).size > each.size / 2 for each in outputs), place
    np.savez(place / "x86.npz", *outputs)
    return {node.op_type for node in sparse.graph.node if node.domain == "sparsify_fx"}


def worst_difference(
    folder: Path, names: Iterable[str], read: Callable[[Path], list[np.ndarray]]
) -> float:
    """Between the outputs there and here, as a fraction of the largest."""
    worst = 0.0
    for name in names:
        here, there = read(folder / name / "x86.npz"), read(folder / name / "arm.npz")
        for a, b in zip(here, there, strict=True):
            worst = max(worst, float(np.abs(a - b).max() / np.abs(a).max()))
    return worst
