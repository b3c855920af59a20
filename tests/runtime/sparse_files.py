"""A small model with zeros, and how the tests run and read the files that it is written to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import nn

from sparsify_fx import runtime

X = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(3))


class Net(nn.Module):
    """Convolutions with a residual, a linear layer, one without zeros, and one of a kind without sparse kernels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.ConvTranspose2d(3, 3, 5, padding=2)
        self.stem = nn.Conv2d(3, 64, 3, padding=1)
        self.left = nn.Conv2d(64, 96, 3, padding=1)
        self.right = nn.Conv2d(64, 96, 1, bias=False)
        self.tokens = nn.Linear(96, 300)
        self.head = nn.Linear(300, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(self.mix(x)))
        x = nn.functional.relu6(self.left(x) + self.right(x))
        x = nn.functional.gelu(self.tokens(x.flatten(2).transpose(1, 2)))
        return self.head(x.mean(1))


def net(sparsity: float = 0.95) -> nn.Module:
    """`Net` with so many zeros in all layers but the last."""
    model = Net().eval()
    generator = torch.Generator().manual_seed(1)
    for layer in (model.mix, model.stem, model.left, model.right, model.tokens):
        kept = torch.rand(layer.weight.shape, generator=generator) >= sparsity
        layer.weight.data = torch.where(kept, layer.weight.data, 0.0)
    return model


def run(path: Path, x: torch.Tensor = X) -> Any:
    session = runtime.session(path, threads=1)
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


def run_plain(path: Path, x: torch.Tensor = X) -> Any:
    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


def weights(path: Path) -> dict[str, bytes]:
    """Every tensor but the scalars: limits of a Clip get other names on the way."""
    tensors = onnx.load(str(path)).graph.initializer
    return {
        tensor.name: numpy_helper.to_array(tensor).tobytes()
        for tensor in tensors
        if tensor.dims
    }
