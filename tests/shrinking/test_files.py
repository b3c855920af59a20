"""The file of a model whose channels are merely masked is that of the model after `shrink`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock

import sparsify_fx
from tests.common import swept
from tests.coupling.nets import made


def residual() -> nn.Module:
    down = nn.Sequential(nn.Conv2d(8, 16, 1, 2, bias=False), nn.BatchNorm2d(16))
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        BasicBlock(8, 8),
        BasicBlock(8, 16, 2, down),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


def inverted() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        InvertedResidual(8, 8, 1, 4),
        InvertedResidual(8, 12, 2, 4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    )


NETS: dict[str, Callable[[], nn.Module]] = {"residual": residual, "inverted": inverted}


def built(name: str) -> tuple[nn.Module, Tensor]:
    if name not in NETS:
        return made(name)
    torch.manual_seed(0)
    net, inputs = NETS[name](), torch.randn(2, 3, 16, 16)
    net(inputs)
    return net.eval(), inputs


def shapes(path: Path) -> list[tuple[int, ...]]:
    graph = onnx.load(path).graph
    return sorted(tuple(t.dims) for t in graph.initializer if len(t.dims) > 1)


@pytest.mark.parametrize(
    "name", ["gated", "attention", *swept(["residual", "inverted"])]
)
def test_masked_and_shrunk_give_the_same_file(name: str, tmp_path: Path) -> None:
    net, inputs = built(name)
    sparsify_fx.export(net, tmp_path / "dense.onnx", inputs)
    sparsify_fx.apply(
        net,
        "magnitude",
        sparsity=0.5,
        granularity="channel",
        schedule="at-init",
        example_inputs=inputs,
    )
    masked = copy.deepcopy(net)
    sparsify_fx.merge(net)
    assert sparsify_fx.shrink(net, inputs).changed
    sparsify_fx.export(masked, tmp_path / "masked.onnx", inputs)
    sparsify_fx.export(net, tmp_path / "shrunk.onnx", inputs)
    assert shapes(tmp_path / "masked.onnx") == shapes(tmp_path / "shrunk.onnx")
    dense, one, other = (
        (tmp_path / f"{n}.onnx").stat().st_size for n in ("dense", "masked", "shrunk")
    )
    # The metadata of the masked one name its method and sparsity.
    assert abs(one - other) < 256
    assert other < dense


class Scaled(nn.Module):
    """Attention, and a second input."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return self.inner(x) * scale


def test_heads_that_stay_in_the_file_are_told(tmp_path: Path) -> None:
    inner, x = built("attention")
    net, scale = Scaled(inner).eval(), torch.ones(1)
    sparsify_fx.apply(
        net,
        "magnitude",
        sparsity=0.5,
        granularity="head",
        schedule="at-init",
        example_inputs=(x, scale),
    )
    report = sparsify_fx.export(net, tmp_path / "mixed.onnx", (x, {"scale": scale}))
    assert any("dead heads stay" in note for note in report.notes)
    report = sparsify_fx.export(net, tmp_path / "all.onnx", (x, scale))
    assert not any("dead heads stay" in note for note in report.notes)
    assert sum(map(len, shapes(tmp_path / "all.onnx"))) > 0
    small, large = ((tmp_path / f"{n}.onnx").stat().st_size for n in ("all", "mixed"))
    assert small < large
