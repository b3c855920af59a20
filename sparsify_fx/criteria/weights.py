"""Criteria that look at the weights alone, or at nothing."""

from __future__ import annotations

import torch

from sparsify_fx.criteria.base import PruningContext, Scores, criterion
from sparsify_fx.sharding import shard


@criterion("magnitude", entrywise=True)
def magnitude(context: PruningContext) -> Scores:
    """Magnitude `|θ|`. Source: [Han 2015]."""
    return {name: weight.abs() for name, weight in context.weights.items()}


@criterion("random", entrywise=True)
def random(context: PruningContext) -> Scores:
    """Uniform in [0, 1), drawn on the CPU so that every device prunes the same weights."""
    return {
        # Of a sharded weight the own part stays; all are drawn, so that every process draws the same.
        name: shard(
            torch.rand(weight.shape, generator=context.generator, device="cpu").to(
                weight.device
            ),
            weight,
        )
        for name, weight in context.weights.items()
    }
