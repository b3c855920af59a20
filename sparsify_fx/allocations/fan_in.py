"""fan-in: every output unit of a layer has the same number of weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify_fx.allocations.base import ALLOCATIONS, Allocation
from sparsify_fx.allocations.shares import Balanced, ErdosRenyiKernel, Global, Uniform
from sparsify_fx.errors import SparsityError
from sparsify_fx.masks import top_mask
from sparsify_fx.sharding import count, whole

_LAYERS: dict[str, type[Allocation]] = {
    "erk": ErdosRenyiKernel,
    "uniform": Uniform,
    "balanced": Balanced,
    "global": Global,
}


@ALLOCATIONS.register("fan-in")
@dataclass(frozen=True)
class FanIn:
    """Constant fan-in: each output unit of a layer keeps k weights, its best, or k + 1 where the budget asks for it.

    A layer of n units that is to keep c weights has k = ⌊c/n⌋, and c − kn of its units have one more, so that every
    budget is exact; with c a multiple of n none has. Weights of other layouts (transposed convolutions) are seen as
    [outputs, inputs, ...]. When masks regrow, the fan-in stays constant, and units of which too few weights are salient
    are given up: their weights go to the others.

    Attributes:
        layers: how the budget is divided among layers: "erk", "uniform", "balanced" or "global".
        salient: γ in [0, 1): a unit is given up at a regrowth when fewer than max(1, ⌊γ k⌋) of its weights are among
            those that stay or those that are most wanted in the layer; 0 gives up none. Units of the last layer stay.

    Raises SparsityError for other values.

    Source: [Lasby 2024] (SRigL), section 3.
    """

    layers: str = "erk"
    salient: float = 0.3

    def __post_init__(self) -> None:
        if self.layers not in _LAYERS or not 0 <= self.salient < 1:
            raise SparsityError(
                f"fan-in: expected layers of {', '.join(_LAYERS)} and salient in [0, 1), got {self}"
            )

    def counts(
        self, scores: Mapping[str, Tensor], capacity: Mapping[str, int], kept: int
    ) -> dict[str, int]:
        """Non-zeros per layer, by `layers`."""
        return _LAYERS[self.layers]().counts(scores, capacity, kept)

    def masks(self, scores: Mapping[str, Tensor], kept: int) -> dict[str, Tensor]:
        """The best weights of each unit; scores of −inf are not to be kept."""
        room = {name: count(score > -math.inf) for name, score in scores.items()}
        counts = self.counts(scores, room, kept)
        return {name: _even(whole(s), counts[name]) for name, s in scores.items()}

    def regrown(
        self, sizes: Tensor, wanted: Tensor, moved: tuple[int, int], last: bool
    ) -> Tensor:
        """The mask of a layer after a regrowth.

        Args:
            sizes: abs(θ), −inf where pruned; [outputs, inputs, ...].
            wanted: the growth criterion, for all entries.
            moved: (dropped, grown).
            last: of the last layer no unit is given up.
        """
        dropped, grown = moved
        stay = top_mask(sizes, count(sizes > -math.inf) - dropped) == 1
        total = int(stay.count_nonzero()) + grown
        # Within a unit those that stay come first, the largest of them before all; then those that are most wanted.
        inputs = max(1, sizes[0].numel())
        order = torch.where(stay, 2 * inputs - _places(sizes), inputs - _places(wanted))
        units = self._active(stay | (top_mask(wanted, grown) == 1), total, last)
        shape = (-1, *[1] * (sizes.dim() - 1))
        return _even(
            order.double().masked_fill(~units.reshape(shape), -math.inf), total
        )

    def _active(self, salient: Tensor, total: int, last: bool) -> Tensor:
        """Which units go on."""
        counts = salient.flatten(1).sum(1)
        if last or self.salient == 0:
            return torch.ones_like(counts, dtype=torch.bool)
        least = max(1, math.floor(self.salient * total / len(counts)))
        # As many units as the weights need, be they salient or not.
        needed = math.ceil(total / max(1, salient[0].numel()))
        least = min(least, int(counts.sort(descending=True).values[max(0, needed - 1)]))
        return counts >= least


def _places(scores: Tensor) -> Tensor:
    """The place of each entry among those of its unit, 0 for the highest score; ties by index."""
    rows = scores.flatten(1)
    order = rows.sort(dim=1, descending=True, stable=True).indices
    return torch.argsort(order, dim=1, stable=True).reshape(scores.shape)


def _even(scores: Tensor, total: int) -> Tensor:
    """A mask with `total` entries, equally many in each row, its best; rows with too few finite scores keep those."""
    rows = scores.flatten(1) if scores.dim() > 1 else scores.reshape(1, -1)
    room = (rows > -math.inf).sum(1)
    # The most that every row can have without spending more than there is.
    level, above = 0, rows.shape[1] + 1
    while above - level > 1:
        middle = (level + above) // 2
        fits = int(room.clamp(max=middle).sum()) <= total
        level, above = (middle, above) if fits else (level, middle)
    counts = room.clamp(max=level)
    # One more for the rows whose next weight is best.
    ranked = rows.sort(dim=1, descending=True, stable=True).values
    next_ = ranked.gather(1, counts.clamp(max=rows.shape[1] - 1)[:, None])[:, 0]
    next_ = next_.masked_fill(room <= level, -math.inf)
    counts = counts + top_mask(next_, total - int(counts.sum()))
    return (_places(rows) < counts[:, None]).byte().reshape(scores.shape)
