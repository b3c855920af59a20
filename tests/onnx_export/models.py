"""Small models, and how the tests of `export` run and read the files."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsify_fx.onnx_export import ExportReport
from sparsify_fx.onnx_export.files.metadata import stored_weights
from sparsify_fx.onnx_export.storage.codecs.decoding import Decoder


def f32(values: Any) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def zeroed(model: nn.Module, sparsity: float) -> nn.Module:
    """Zero exactly this fraction of every matrix, the way users do: by multiplying with a mask (which makes -0.0)."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                order = torch.randperm(weight.numel(), generator=generator)
                mask = (order >= round(sparsity * weight.numel())).reshape(weight.shape)
                weight.mul_(mask)
    return model


def conv_net() -> nn.Module:
    """Conv and batch norm with running statistics and scales of both signs."""
    torch.manual_seed(0)
    first, second = nn.BatchNorm2d(16), nn.BatchNorm2d(16)
    for norm in (first, second):
        for value in (norm.weight, norm.running_mean):
            assert value is not None
            nn.init.normal_(value)
    head = (nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(), nn.Linear(64, 10))
    body = (
        nn.Conv2d(3, 16, 3),
        first,
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, bias=False),
        second,
        nn.ReLU(),
    )
    return zeroed(nn.Sequential(*body, *head), 0.9)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return zeroed(
        nn.Sequential(nn.Linear(400, 800), nn.GELU(), nn.Linear(800, 400)), 0.9
    )


@dataclasses.dataclass(frozen=True)
class Exported:
    """A model in training mode, its input, the file and the report."""

    model: nn.Module
    inputs: Tensor
    path: Path
    report: ExportReport


def run(path: Path, *inputs: Tensor) -> list[Any]:
    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    names = [item.name for item in session.get_inputs()]
    return list(
        session.run(
            None, dict(zip(names, (value.numpy() for value in inputs), strict=True))
        )
    )


def expected(model: nn.Module, *inputs: Tensor) -> Any:
    with torch.no_grad():
        return copy.deepcopy(model).eval()(*inputs)


def stored(path: Path) -> dict[str, Any]:
    model = onnx.load(str(path))
    decoder, rebuilt = Decoder(model), stored_weights(model)
    return {
        name: decoder.array(name)
        for name in (*decoder.tensors, *decoder.sparse, *rebuilt)
    }
