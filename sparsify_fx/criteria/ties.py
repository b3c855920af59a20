"""Equal scores at the threshold, among which the order of the weights decides, not the criterion."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify_fx.errors import TiesWarning, warn
from sparsify_fx.programs.collapse import listed
from sparsify_fx.sharding import lowest, part, sharded, summed

Scores = Mapping[str, Tensor]
Masks = Mapping[str, Tensor]

# Of the weights that could stay: so many decided by position are worth a warning.
SHARE = 0.05
# So few are not, nor is a layer of fewer: single paths through a net have equal scores by nature.
FEW = 16
# Entries of a layer that are looked at before all are.
_LOOK = 1 << 12
_REMEDY = (
    "where a net starts the last norm of each branch at zero, the loss depends on no weight of the branch: build it "
    "with zero_init_last=False (timm), or score with the option unit_scales=True, criterion={'name': 'snip', "
    "'unit_scales': True}; else give more batches, another criterion, or a net that has been trained for some steps"
)


@dataclass(frozen=True)
class Ties:
    """Weights with the same score, of which some stay and others go because of their position alone.

    Attributes:
        kept, dropped: how many of them stay and go.
        weights: how many could stay: all that were not pruned before.
        level: layers all of whose weights share the threshold's score, so that their place alone decides;
            filled, emptied: those of them that stay, or go, as a whole.
        score: the score they share; None when each layer has a threshold of its own.
    """

    kept: int = 0
    dropped: int = 0
    weights: int = 0
    level: tuple[str, ...] = ()
    filled: tuple[str, ...] = ()
    emptied: tuple[str, ...] = ()
    score: float | None = None

    def __bool__(self) -> bool:
        """Whether position decides so much that a user should know."""
        return bool(self.level) or min(self.kept, self.dropped) > max(
            SHARE * self.weights, FEW
        )

    def sentence(self) -> str:
        """The facts; empty when they do not matter.

        >>> Ties(30, 20, 100, ("a",), ("a",), (), 0.0).sentence()
        '50 of 100 weights tie at the threshold, score 0: the first 30 stay, 20 go; 1 layer is kept whole: a'
        """
        if not self:
            return ""
        at = (
            "thresholds of their layers"
            if self.score is None
            else f"threshold, score {self.score + 0.0:g}"
        )
        told = f"{self.kept + self.dropped} of {self.weights} weights tie at the {at}: "
        told += f"the first {self.kept} stay, {self.dropped} go"
        partly = tuple(
            name for name in self.level if name not in {*self.filled, *self.emptied}
        )
        for names, fate in (
            (self.emptied, "emptied"),
            (self.filled, "kept whole"),
            (partly, "divided by position"),
        ):
            if names:
                told += f"; {len(names)} layer{' is' if len(names) == 1 else 's are'} {fate}: {listed(names)}"
        return told

    def warn(self, criterion: str) -> None:
        """Give a TiesWarning, if they matter."""
        if self:
            warn(
                f"{criterion} cannot tell weights apart: {self.sentence()}; {_REMEDY}",
                TiesWarning,
            )


def find_ties(scores: Scores, masks: Masks, weights: Scores) -> Ties:
    """The ties that decided these masks; `Ties()` where a look at a part of every layer shows none.

    Weights that are zero and score zero do not count: it makes no difference which of them stay.

    Args:
        scores: by which the masks were chosen; −inf where a weight was pruned before.
        masks: 1 where a weight is kept.
        weights: the effective weights.

    >>> ones, zeros = torch.ones(50), torch.zeros(50)
    >>> find_ties({"a": zeros, "b": zeros}, {"a": ones, "b": zeros}, {"a": ones, "b": ones}).emptied
    ('b',)
    """
    # 1. A look at some thousand entries of each layer: where nothing of the sample lies at a threshold, too few of all
    #    entries can tie to be worth a warning. Most prunings end here, at no cost.
    # Of weights that are sharded each process looks at its own part.
    own = [
        {name: part(of[name], score) for name, score in scores.items()}
        for of in (scores, masks, weights)
    ]
    looked = _agreed({name: _ends(_some(name, *own)) for name in scores}, scores)
    if not any(low == high for low, high in [_overall(looked), *looked.values()]):
        return Ties()
    # 2. All entries: now the ends are exact.
    layers = {
        name: _Layer.of(own[0][name], own[1][name], own[2][name]) for name in scores
    }
    ends = _agreed({name: _ends(layer) for name, layer in layers.items()}, scores)
    low, high = _overall(ends)
    # 3. A score that went exceeds one that stayed, so each layer has a threshold of its own. NaN equals nothing:
    #    layers without a tie count none.
    if high > low:
        return _counted(
            layers,
            {
                name: low if low == high else math.nan
                for name, (low, high) in ends.items()
            },
            None,
            scores,
        )
    # 4. One threshold over all layers.
    if low != high:
        return Ties()
    return _counted(layers, dict.fromkeys(layers, low), low, scores)


@dataclass(frozen=True)
class _Layer:
    """Flat scores and masks of one layer; `living` says which could stay, `counts` for which it makes a difference."""

    scores: Tensor
    kept: Tensor
    living: Tensor
    counts: Tensor

    @staticmethod
    def of(scores: Tensor, mask: Tensor, weight: Tensor, step: int = 1) -> _Layer:
        flat = scores.detach().reshape(-1)[::step]
        # Integers know no −inf, by which pruned entries are marked.
        flat = flat if flat.is_floating_point() else flat.double()
        living = flat > -math.inf
        # Zeros that score zero make the same net whichever of them stay.
        harmless = (flat == 0) & (
            weight.detach().reshape(-1)[::step].to(flat.device) == 0
        )
        return _Layer(
            flat,
            mask.reshape(-1)[::step].to(flat.device) != 0,
            living,
            living & ~harmless,
        )


def _some(name: str, scores: Scores, masks: Masks, weights: Scores) -> _Layer:
    """Some entries from everywhere in a layer; an odd step meets every column of a matrix."""
    step = math.ceil(scores[name].numel() / _LOOK) | 1
    return _Layer.of(scores[name], masks[name], weights[name], step)


def _ends(layer: _Layer) -> tuple[float, float]:
    """(lowest score that stays, highest score that goes)."""
    if not len(layer.scores):
        return math.inf, -math.inf
    low = torch.where(layer.counts & layer.kept, layer.scores, math.inf).amin()
    high = torch.where(layer.counts & ~layer.kept, layer.scores, -math.inf).amax()
    return float(low), float(high)


def _agreed(
    ends: Mapping[str, tuple[float, float]], scores: Scores
) -> dict[str, tuple[float, float]]:
    """The ends over all shards, in one exchange."""
    names = [name for name in ends if sharded(scores[name])]
    if not names:
        return dict(ends)
    own = torch.tensor(
        [ends[name] for name in names], dtype=torch.float64, device="cpu"
    )
    sides = own.new_tensor([1.0, -1.0])
    agreed = (lowest(own * sides, scores[names[0]]).cpu() * sides).tolist()
    return {
        **ends,
        **{n: (low, high) for n, (low, high) in zip(names, agreed, strict=True)},
    }


def _overall(ends: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    return min(low for low, _ in ends.values()), max(high for _, high in ends.values())


def _counted(
    layers: Mapping[str, _Layer],
    thresholds: Mapping[str, float],
    shared: float | None,
    scores: Scores,
) -> Ties:
    """How many weights lie at the thresholds, and which layers have no other score."""
    kept = dropped = living = 0
    level: dict[str, tuple[int, int]] = {}
    for name, layer in layers.items():
        tied = layer.counts & (layer.scores == thresholds[name])
        numbers = [tied & layer.kept, tied & ~layer.kept, layer.living]
        counts = torch.stack([number.count_nonzero() for number in numbers])
        stay, go, could = summed(counts, scores[name]).tolist()
        kept, dropped, living = kept + stay, dropped + go, living + could
        # The whole layer has the threshold's score: its place among the layers decides what becomes of it.
        if stay + go == could > FEW:
            level[name] = stay, go
    # All on one side: the equal scores have decided nothing.
    if not kept or not dropped:
        return Ties(kept, dropped, living)
    filled = tuple(name for name, (_, go) in level.items() if not go)
    emptied = tuple(name for name, (stay, _) in level.items() if not stay)
    return Ties(kept, dropped, living, tuple(level), filled, emptied, shared)
