"""A weight that is read several times in one span is computed once, and nothing else changes."""

from __future__ import annotations

import copy

import pytest
import timm.layers
import torch
from torch import nn

from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.sharing import shared_weights
from tests.programs.sharing.common import Encoder, Twice, evaluations, gradients, made


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.LSTM(6, 4), (3, 2, 6)),
        (nn.GRU(6, 4), (3, 2, 6)),
        (timm.layers.StdConv2d(3, 4, 3), (1, 3, 5, 5)),
        (timm.layers.ScaledStdConv2d(3, 4, 3), (1, 3, 5, 5)),
        (timm.layers.ScaledStdConv2dSame(3, 4, 3), (1, 3, 5, 5)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
@pytest.mark.parametrize("training", [True, False])
def test_a_layer_that_reads_its_weight_twice_computes_it_once(
    layer: nn.Module, shape: tuple[int, ...], training: bool
) -> None:
    model = made(copy.deepcopy(layer)).train(training)
    inputs = torch.randn(shape)
    with torch.set_grad_enabled(training):
        assert set(evaluations(model, lambda: model(inputs)).values()) == {1}
        assert set(
            evaluations(model, lambda: (model(inputs), model(inputs))).values()
        ) == {2}, "two forwards"


@pytest.mark.parametrize(
    "attention",
    [nn.MultiheadAttention(6, 2), nn.MultiheadAttention(6, 2, kdim=6, vdim=6)],
)
def test_attention_and_its_fast_path_compute_each_weight_once(
    attention: nn.MultiheadAttention,
) -> None:
    model = made(attention).eval()
    x = torch.randn(3, 2, 6)
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            assert set(evaluations(model, lambda: model(x, x, x)).values()) == {1}


def test_a_layer_called_twice_and_a_tied_weight_are_computed_once_in_the_context() -> (
    None
):
    model, x = made(Twice()), torch.randn(2, 6)
    plain = model(x)
    plain.sum().backward()
    expected = gradients(model)
    model.zero_grad()

    def run() -> None:
        with shared_weights():
            outputs = model(x)
        assert torch.equal(outputs, plain)
        outputs.sum().backward()

    assert evaluations(model, lambda: model(x)) == {"layer.weight": 2}
    assert evaluations(model, run) == {"layer.weight": 1}
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name])

    tied = nn.Sequential(nn.Embedding(6, 6), nn.Linear(6, 6, bias=False))
    tied[1].weight = tied[0].weight
    made(tied)
    with shared_weights():
        assert evaluations(tied, lambda: tied(torch.arange(3))) == {"0.weight": 1}


def test_backward_twice_in_one_context() -> None:
    """Without care the second forward would meet a graph that the first backward has freed."""
    model, x = made(Twice()), torch.randn(2, 6)
    with shared_weights():
        model(x).sum().backward()
        first = gradients(model)
        model.zero_grad()
        model(x).sum().backward()
    assert all(
        torch.equal(gradient, first[name])
        for name, gradient in gradients(model).items()
    )


def test_two_losses_of_one_forward_as_without_the_context() -> None:
    model, x = made(Encoder()), torch.randn(2, 3, 6)
    first, second = model(x), model(x)
    first.sum().backward()
    second.sum().backward()
    with shared_weights():
        first, second = model(x), model(x)
    (first.sum() + second.sum()).backward()
    with shared_weights():
        first, second = model(x), model(x)
    first.sum().backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        second.sum().backward()


@pytest.mark.parametrize("method", ["signin", "random", "str", "l0"])
def test_changes_in_place_are_seen(method: str) -> None:
    """Without care an optimizer step, a new mask, noise or evaluation mode would go unnoticed."""
    model, x = made(Twice(), method), torch.randn(2, 6)
    twin = copy.deepcopy(model)
    outputs = []
    for each, sharing in ((model, True), (twin, False)):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
        seen = []
        with shared_weights() if sharing else torch.enable_grad():
            for _ in range(3):
                optimizer.zero_grad()
                seen.append(each(x))
                seen[-1].sum().backward()
                optimizer.step()
            (program,) = programs(each).values()
            seen += [each(x), each.eval()(x)]
            mask = program.current_mask()
            program.write(program.theta() * 3) if mask is None else program.set_mask(
                1 - mask
            )
            seen.append(each(x))
            with torch.no_grad():
                next(program.parameters()).mul_(2)
            seen.append(each(x))
        outputs.append(seen)
    for a, b in zip(*outputs, strict=True):
        torch.testing.assert_close(a, b)


def test_a_read_without_gradients_does_not_serve_one_with() -> None:
    model, x = made(Twice()), torch.randn(2, 6)
    with shared_weights():
        with torch.no_grad():
            model(x)
        with torch.inference_mode():
            model(x)
        model(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
