"""Channels in multiples of a number."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import sparsify_fx
from sparsify_fx.budgets.counting import count_multiply_adds
from sparsify_fx.errors import MethodError
from sparsify_fx.granularity.find import MULTIPLE, multiple_of


def chain() -> tuple[nn.Sequential, Tensor]:
    """Widths that are no multiples of 8, one that is, and one below it."""
    torch.manual_seed(0)
    widths = [3, 20, 24, 45, 6]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)]
    return nn.Sequential(*layers, *head).eval(), torch.randn(2, 3, 8, 8)


@pytest.mark.parametrize("allocation", ["global", "uniform"])
def test_widths_that_lose_channels_become_multiples(allocation: str) -> None:
    net, inputs = chain()
    before = [m.out_channels for m in net if isinstance(m, nn.Conv2d)]
    dense = count_multiply_adds(net, ((inputs,), {})).total
    sparsify_fx.apply(
        net,
        "magnitude",
        sparsity=0.5,
        budget="macs",
        granularity="channel:8",
        allocation=allocation,
        schedule="at-init",
        example_inputs=inputs,
    )
    expected = net(inputs)
    sparsify_fx.merge(net)
    assert sparsify_fx.shrink(net, inputs).changed
    after = [m.out_channels for m in net if isinstance(m, nn.Conv2d)]
    assert any(a < b for a, b in zip(after, before, strict=True))
    # Of a few channels any number stays.
    assert all(
        a % 8 == 0 or a < 8 or a == b for a, b in zip(after, before, strict=True)
    )
    # Rounding never takes more than was asked for.
    assert count_multiply_adds(net, ((inputs,), {})).total <= 0.5 * dense
    assert torch.allclose(net(inputs), expected, atol=1e-6)


def test_names_of_channels_have_a_multiple_and_others_none() -> None:
    assert multiple_of("channel:8") == 8
    assert multiple_of("channel:1") == 1
    assert multiple_of("head") == multiple_of("channel") == MULTIPLE
    assert multiple_of("block:8x8") is None


def test_no_channels_is_no_multiple() -> None:
    net, inputs = chain()
    with pytest.raises(MethodError, match="at least 1, such as channel:8"):
        sparsify_fx.apply(
            net, "gmp", granularity="channel:0", sparsity=0.5, example_inputs=inputs
        )
