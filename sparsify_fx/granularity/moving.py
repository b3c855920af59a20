"""Channels that move: which die, which come back, and the values with which those begin.

The rows that make a dead channel and the columns that read it are zero both, so that neither has a gradient: a channel
that came back with zeros would stay dead. It begins with rows of the size of living ones and with columns of zeros:
the outputs stay, and its columns have gradients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsify_fx.coupling.classes import Ids, Mask

Members = Mapping[str, Mapping[int, Ids]]


def living_groups(masks: Mapping[str, Tensor], members: Members, count: int) -> Mask:
    """[count]: whether any weight of each group lives."""
    found = np.zeros(count, bool)
    for name, axes in members.items():
        for axis, ids in axes.items():
            alive = masks[name].bool().movedim(axis, 0).flatten(1).any(1).cpu().numpy()
            np.logical_or.at(found, ids, alive)
    found[0] = True
    return found


def after_moves(
    families: Sequence[Ids],
    living: Mask,
    sizes: Mapping[int, float],
    wanted: Mapping[int, float],
    fraction: float,
) -> Mask:
    """The groups that live after this fraction of each width has moved to the dead ones that are wanted most."""
    result = living.copy()
    for family in families:
        alive, dead = family[living[family]], family[~living[family]]
        # One stays: without it the layer would be cut.
        count = min(math.floor(fraction * len(alive)), len(dead), len(alive) - 1)
        if count > 0:
            result[sorted(alive.tolist(), key=lambda g: sizes[g])[:count]] = False
            result[sorted(dead.tolist(), key=lambda g: -wanted[g])[:count]] = True
    return result


def masks_of(
    before: Mapping[str, Tensor], members: Members, was: Mask, now: Mask
) -> dict[str, Tensor]:
    """The masks when these groups live: weights that were zeros between living groups stay so."""
    found = {}
    for name, mask in before.items():
        lives, old = torch.ones_like(mask), torch.ones_like(mask)
        for axis, ids in members.get(name, {}).items():
            lives = lives * _along(now[ids], axis, mask)
            old = old * _along(was[ids], axis, mask)
        found[name] = (lives * torch.where(old == 1, mask, 1)).contiguous()
    return found


def woken_rows(
    weights: Mapping[str, Tensor],
    members: Members,
    made: Mapping[str, int],
    new: Mask,
    generator: torch.Generator,
) -> dict[str, tuple[Tensor, Tensor]]:
    """{weight: (values, where)}: rows of groups that come back, normal, as large as the living weights of the tensor.

    Args:
        made: the axis along which each weight makes channels.
        new: [groups] whether each comes back.
    """
    found = {}
    for name, axes in members.items():
        axis = made[name]
        if axis not in axes or not new[axes[axis]].any():
            continue
        weight = weights[name]
        size = weight[weight != 0].double().square().mean().sqrt().nan_to_num(0.0)
        values = torch.randn(weight.shape, generator=generator).to(weight) * size.to(weight)  # fmt: skip
        where = _along(new[axes[axis]], axis, weight).bool().expand(weight.shape)
        found[name] = (values, where)
    return found


def _along(chosen: Mask, axis: int, like: Tensor) -> Tensor:
    shape: list[Any] = [1] * like.ndim
    shape[axis] = -1
    return torch.from_numpy(chosen.astype(np.uint8)).to(like.device).reshape(shape)
