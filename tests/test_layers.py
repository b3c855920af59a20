from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrizations

import sparsify_fx
from sparsify_fx.errors import LayerError
from sparsify_fx.layers import select_layers
from sparsify_fx.owners import programs


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return torchvision.models.resnet18()


def test_all_convolutions_and_linears_first_and_last_included(resnet: nn.Module) -> None:
    names = list(select_layers(resnet))
    assert names[0] == "conv1.weight"
    assert names[-1] == "fc.weight"
    assert len(names) == 21
    assert not any("bn" in name or "bias" in name for name in names)


@pytest.mark.parametrize(
    ("include", "exclude", "count"),
    [
        ("layer1.*", None, 4),
        ("layer1", None, 4),
        (["layer1.*", "fc"], None, 5),
        (nn.Linear, None, 1),
        (None, nn.Linear, 20),
        (None, ["conv1", "fc"], 19),
        (nn.Conv2d, "*.downsample.*", 17),
        (torchvision.models.resnet.BasicBlock, None, 19),
    ],
)
def test_include_and_exclude(resnet: nn.Module, include: object, exclude: object, count: int) -> None:
    assert len(select_layers(resnet, include, exclude)) == count  # type: ignore[arg-type]


def test_a_selector_that_matches_nothing_is_an_error_with_a_suggestion(resnet: nn.Module) -> None:
    with pytest.raises(
        LayerError, match=r"unknown layer pattern or type 'layr1.0.conv1'; did you mean 'layer1.0.conv1'"
    ):
        select_layers(resnet, include="layr1.0.conv1")
    with pytest.raises(LayerError, match="exclude: unknown layer pattern or type 'LSTM'"):
        select_layers(resnet, exclude=nn.LSTM)
    with pytest.raises(LayerError, match="leave none"):
        select_layers(resnet, include="fc", exclude=nn.Linear)
    with pytest.raises(LayerError, match="takes module name patterns"):
        select_layers(resnet, include=[3])  # type: ignore[list-item]


def test_weights_that_cannot_be_rewritten_are_refused() -> None:
    with pytest.raises(LayerError, match="run one batch"):
        select_layers(nn.Sequential(nn.LazyLinear(3)))
    with pytest.raises(LayerError, match="parametrization"):
        select_layers(nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 2))))
    twice = sparsify_fx.apply(nn.Sequential(nn.Linear(4, 4)))
    with pytest.raises(LayerError, match="already computed by a weight program"):
        sparsify_fx.apply(twice)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_weights_are_named_and_nothing_changes(bad: float) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight[0, 0] = bad
    with pytest.raises(LayerError, match=r"NaN or Inf: 1\.weight"):
        sparsify_fx.apply(model)
    assert not programs(model)
