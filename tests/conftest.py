"""Shared models and helpers of the tests; those that plugins may use too come from `sparsify_fx.testing`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparsify_fx.testing import batch, effective, small_net, train_step

__all__ = ["batch", "effective", "net", "small_net", "train_step", "ulp_distance"]


def ulp_distance(a: Tensor, b: Tensor) -> Tensor:
    """|a − b| in units in the last place of b (float32)."""
    spacing = torch.nextafter(b.abs(), torch.tensor(torch.inf)) - b.abs()
    return (a.double() - b.double()).abs() / spacing.double()


@pytest.fixture
def net() -> nn.Sequential:
    return small_net()
