"""Attention with fewer heads of keys than of queries: a head of keys goes with all the queries that it serves."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsify_fx
from sparsify_fx.shrinking import shrink


class GroupedQueries(nn.Module):
    """Six heads of queries for three of keys; `repeated`: by the code itself, else by the operator."""

    def __init__(self, repeated: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.repeated, self.size = repeated, 4
        self.q = nn.Linear(12, 24)
        self.k, self.v = nn.Linear(12, 12), nn.Linear(12, 12)
        self.out = nn.Linear(24, 12)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.heads(layer(x)) for layer in (self.q, self.k, self.v))
        if self.repeated:
            k, v = (part.repeat_interleave(2, dim=1) for part in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, enable_gqa=not self.repeated)
        return x + self.out(mixed.transpose(1, 2).flatten(2))

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.size)).transpose(1, 2)


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("dead", [0, 1, 2])
def test_a_head_of_keys_goes_with_its_queries(repeated: bool, dead: int) -> None:
    model, x = GroupedQueries(repeated).eval(), torch.randn(2, 5, 12)
    # What the two heads of queries give is not read.
    model.out.weight.data[:, 8 * dead : 8 * dead + 8] = 0
    expected = model(x)
    shrink(model, x)
    torch.testing.assert_close(model(x), expected, rtol=1e-6, atol=1e-6)
    assert (model.q.out_features, model.k.out_features) == (16, 8)
    assert (model.v.out_features, model.out.in_features) == (8, 16)


def test_one_of_its_queries_keeps_a_head() -> None:
    model, x = GroupedQueries(repeated=False).eval(), torch.randn(2, 5, 12)
    model.out.weight.data[:, :4] = 0
    expected = model(x)
    shrink(model, x)
    torch.testing.assert_close(model(x), expected, rtol=1e-6, atol=1e-6)
    assert (model.q.out_features, model.k.out_features) == (24, 12)


@pytest.mark.parametrize("repeated", [False, True])
def test_heads_are_pruned_as_groups(repeated: bool) -> None:
    model, x = GroupedQueries(repeated), torch.randn(2, 5, 12)
    sparsify_fx.apply(
        model, "magnitude", sparsity=0.3, granularity="head", example_inputs=x
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=2, steps_per_epoch=1)
    for _ in range(2):
        optimizer.step()
        scheduler.step()
    sparsify_fx.merge(model).eval()
    expected = model(x)
    shrink(model, x)
    torch.testing.assert_close(model(x), expected, rtol=1e-6, atol=1e-6)
    assert (model.q.out_features, model.k.out_features) == (16, 8)
