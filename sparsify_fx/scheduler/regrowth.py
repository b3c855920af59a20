"""How many weights of each layer move when masks regrow, and the mask of a layer afterwards."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from sparsify_fx.allocations import RegrowingPattern, proportional
from sparsify_fx.masks import top_mask
from sparsify_fx.programs.input_layouts import InputLayout
from sparsify_fx.sharding import count, part, shard, whole

Counts = dict[str, int]
# Layers with fewer zeros than this share that still grow lose no more of their weights than they have zeros.
_NEARLY_DENSE = 0.2
# Shares are divided exactly, as whole numbers.
_UNITS = 1 << 40


def in_place(alive: Mapping[str, Tensor], fraction: float) -> tuple[Counts, Counts]:
    """(dropped, grown) of each layer, where every layer keeps its count."""
    moved = {}
    for name, mask in alive.items():
        living = count(mask)
        # No more than there is room for: a layer that is nearly full has few weights to grow.
        moved[name] = min(math.floor(fraction * living), mask.numel() - living)
    return moved, moved


def redistributed(
    alive: Mapping[str, Tensor], scores: Mapping[str, Tensor], fraction: float
) -> tuple[Counts, Counts]:
    """(dropped, grown) of each layer, where what is dropped goes to the layers of the largest mean living score.

    Source: [Dettmers 2019], section 3.2, algorithm 1 and its code.
    """
    means = {name: _mean(scores[name], mask) for name, mask in alive.items()}
    total = sum(means.values()) or 1.0
    dropped, room = {}, {}
    for name, mask in alive.items():
        living, size = count(mask), mask.numel()
        zeros = 1 - living / size
        grows = means[name] / total > 1 / len(alive)
        share = min(zeros, fraction) if zeros < _NEARLY_DENSE and grows else fraction
        dropped[name] = math.floor(share * living)
        room[name] = size - living + dropped[name]
    shares = {name: 1 + round(_UNITS * mean / total) for name, mean in means.items()}
    return dropped, proportional(shares, room, sum(dropped.values()))


def _mean(score: Tensor, mask: Tensor) -> float:
    living = whole(score)[whole(mask).bool()]
    return float(living.double().mean()) if living.numel() else 0.0


def moved(
    weight: Tensor, mask: Tensor, wanted: Tensor, counts: tuple[int, int]
) -> Tensor:
    """The mask without the smallest living weights and with the most wanted of all that do not stay.

    Args:
        counts: (dropped, grown).

    A weight that is dropped and grown at once keeps its value.
    """
    # 1. Drop. −inf keeps pruned entries, whose size is 0 too, out of the ranking.
    dropped, grown = counts
    size = _without(weight, part(weight, weight).abs(), mask == 0)
    stay = whole(top_mask(size, count(mask) - dropped))
    # 2. Grow among all that do not stay. The dropped ones are among them: one may come back at once, as it was.
    own = part(wanted.to(mask.device), weight)
    return stay | whole(top_mask(_without(weight, own, stay == 1), grown))


def moved_in_pattern(
    pattern: RegrowingPattern,
    layout: InputLayout,
    layer: tuple[Tensor, Tensor, Tensor],
    counts: tuple[int, int],
    last: bool,
) -> Tensor:
    """As `moved`, where the pattern says what may live.

    Args:
        layer: the whole weight, its mask, and what is wanted.
    """
    weight, mask, wanted = layer
    sizes = weight.abs().masked_fill(mask == 0, -torch.inf)
    scores = whole(wanted).to(mask.device)
    found = pattern.regrown(
        layout.standard(sizes), layout.standard(scores), counts, last
    )
    return layout.back(found, tuple(mask.shape))


def _without(weight: Tensor, scores: Tensor, where: Tensor) -> Tensor:
    """The scores, which lie as the weight's own part, with −inf at `where`; sharded as the weight is."""
    return shard(scores.masked_fill(part(where, weight), -torch.inf), weight)
