from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrizations, prune

import sparsify_fx
from sparsify_fx.errors import LayerError
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.selection import select_layers


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return torchvision.models.resnet18()


def test_all_convolutions_and_linears_first_and_last_included(
    resnet: nn.Module,
) -> None:
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
def test_include_and_exclude(
    resnet: nn.Module, include: object, exclude: object, count: int
) -> None:
    assert len(select_layers(resnet, include, exclude)) == count  # type: ignore[arg-type]


def test_a_selector_that_matches_nothing_is_an_error_with_a_suggestion(
    resnet: nn.Module,
) -> None:
    with pytest.raises(
        LayerError,
        match=r"unknown layer pattern or type 'layr1.0.conv1'; did you mean 'layer1.0.conv1'",
    ):
        select_layers(resnet, include="layr1.0.conv1")
    with pytest.raises(
        LayerError, match="exclude: unknown layer pattern or type 'LSTM'"
    ):
        select_layers(resnet, exclude=nn.LSTM)
    with pytest.raises(LayerError, match="leave none"):
        select_layers(resnet, include="fc", exclude=nn.Linear)
    with pytest.raises(LayerError, match="takes module name patterns"):
        select_layers(resnet, include=[3])  # type: ignore[list-item]


def test_weights_that_cannot_be_rewritten_are_refused() -> None:
    for lazy in (nn.LazyLinear(3), nn.LazyConv2d(3, 3), nn.LazyConvTranspose1d(3, 3)):
        with pytest.raises(LayerError, match="run one batch"):
            select_layers(nn.Sequential(lazy))
    twice = sparsify_fx.apply(nn.Sequential(nn.Linear(4, 4)))
    with pytest.raises(LayerError, match="already computed by a weight program"):
        sparsify_fx.apply(twice)
    with pytest.raises(
        LayerError, match=r"dtype torch\.complex64; only floating weights"
    ):
        select_layers(nn.Sequential(nn.Linear(2, 2, dtype=torch.complex64)))


def test_a_lazy_model_works_after_its_first_batch() -> None:
    model, inputs = (
        nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(2)),
        torch.randn(2, 3, 5, 5),
    )
    expected = model(inputs)
    sparsify_fx.apply(model, "signin", sparsity=0.0)
    torch.testing.assert_close(model(inputs), expected)
    sparsify_fx.merge(model)
    assert [type(module) for module in model] == [nn.Conv2d, nn.Flatten, nn.Linear]


NORMED = {
    "weight_norm": (parametrizations.weight_norm, "parametrizations.weight.original1"),
    "spectral_norm": (
        parametrizations.spectral_norm,
        "parametrizations.weight.original",
    ),
    "orthogonal": (parametrizations.orthogonal, "parametrizations.weight.original"),
    "old weight_norm": (nn.utils.weight_norm, "weight_v"),
    "old spectral_norm": (nn.utils.spectral_norm, "weight_orig"),
    "prune": (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), "weight_orig"),
}


@pytest.mark.filterwarnings(
    "ignore:.*weight_norm.* is deprecated:FutureWarning"
)  # the old one, tested on purpose
@pytest.mark.parametrize("name", NORMED)
def test_a_parametrized_weight_is_refused_with_what_it_is_made_of(name: str) -> None:
    """Without care the program would replace what the parametrization computes, or the other way round."""
    normed, inner = NORMED[name]
    model = nn.Sequential(nn.Linear(4, 4), normed(nn.Linear(4, 4)))
    with pytest.raises(
        LayerError, match=rf"1\.weight is not a plain parameter .* include='1\.{inner}'"
    ):
        sparsify_fx.apply(model)
    assert not programs(model)
    assert list(
        programs(sparsify_fx.apply(model, "signin", sparsity=0.5, exclude="1"))
    ) == ["0.weight"]
    model(torch.randn(2, 4)).sum().backward()


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "name", ["weight_norm", "spectral_norm", "old weight_norm", "old spectral_norm"]
)
def test_what_a_parametrized_weight_is_made_of_can_be_sparse(name: str) -> None:
    normed, inner = NORMED[name]
    model, inputs = (
        nn.Sequential(normed(nn.Linear(4, 4)), nn.Linear(4, 4)).eval(),
        torch.randn(2, 4),
    )
    keys, kind, expected = list(model.state_dict()), type(model[0]), model(inputs)
    include = [f"0.{inner}", "1"]
    sparsify_fx.apply(model, "signin", sparsity=0.0, include=include)
    torch.testing.assert_close(model(inputs), expected)
    sparsify_fx.merge(model)
    assert type(model[0]) is kind
    sparsify_fx.apply(model, "signin", sparsity=0.5, include=include)
    model(inputs).square().sum().backward()
    mask = programs(model)[f"0.{inner}"].current_mask()
    assert (model[0].weight[mask == 0] == 0).all(), "a norm keeps zeros"
    assert all(
        p.grad.isfinite().all() for p in programs(model)[f"0.{inner}"].parameters()
    )
    sparsify_fx.merge(model)
    assert list(model.state_dict()) == keys
    assert int((model[0].weight != 0).sum() + (model[1].weight != 0).sum()) == 16


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("normed", [nn.utils.weight_norm, parametrizations.weight_norm])
def test_a_parametrized_recurrent_weight_is_refused(
    normed: Callable[..., nn.Module],
) -> None:
    with pytest.raises(LayerError, match=r"0\.weight_hh_l0 is not a plain parameter"):
        sparsify_fx.apply(nn.Sequential(normed(nn.LSTM(4, 4), "weight_hh_l0")))


def test_a_parametrization_beside_the_weight_is_left_alone() -> None:
    class Negative(nn.Module):
        def forward(self, bias: torch.Tensor) -> torch.Tensor:
            return -bias

    model, inputs = nn.Sequential(nn.Linear(4, 4)), torch.randn(2, 4)
    nn.utils.parametrize.register_parametrization(model[0], "bias", Negative())
    expected = model(inputs)
    sparsify_fx.apply(model, "signin", sparsity=0.0)
    torch.testing.assert_close(model(inputs), expected)
    torch.testing.assert_close(copy.deepcopy(model)(inputs), expected)
    sparsify_fx.merge(model)
    torch.testing.assert_close(model(inputs), expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_weights_are_named_and_nothing_changes(bad: float) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight[0, 0] = bad
    with pytest.raises(LayerError, match=r"NaN or Inf: 1\.weight"):
        sparsify_fx.apply(model)
    assert not programs(model)
