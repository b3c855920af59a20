"""Channels in multiples of a number."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sparsify_fx
from sparsify_fx.budgets.counting import count_multiply_adds
from sparsify_fx.errors import MethodError
from sparsify_fx.granularity.rounding import Rounding, rounding_of


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
    assert all(a % 8 == 0 or a == b for a, b in zip(after, before, strict=True))
    # Rounding never takes more than was asked for.
    assert count_multiply_adds(net, ((inputs,), {})).total <= 0.5 * dense
    assert torch.allclose(net(inputs), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("removed", "left"), [(0, 20), (1, 16), (5, 16), (8, 16), (9, 8), (19, 8)]
)
def test_the_nearest_multiple_stays(removed: int, left: int) -> None:
    family = np.arange(1, 21)
    rounding = Rounding((family,), (8,))
    gone = rounding(family[:removed])
    assert 20 - len(gone) == left
    # The worst go, and only they.
    assert gone.tolist() == family[: len(gone)].tolist()


def test_groups_of_several_channels_count_as_so_many() -> None:
    # Heads of 64 rows and columns each are multiples of 8 already; of 12 channels two make one.
    heads, widths = np.repeat(np.arange(1, 13), 64), np.repeat(np.arange(13, 19), 12)
    members = {"qkv": {0: np.tile(heads, 3)}, "proj": {1: heads}, "conv": {0: widths}}
    families = [np.arange(1, 13), np.arange(13, 19)]
    assert rounding_of(8, families, members).steps == (1, 2)


def test_no_channels_is_no_multiple() -> None:
    net, inputs = chain()
    with pytest.raises(MethodError, match="at least 1, such as channel:8"):
        sparsify_fx.apply(
            net, "gmp", granularity="channel:0", sparsity=0.5, example_inputs=inputs
        )
