"""Mask updates: what a schedule does to the masks at one moment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from sparsify_fx.criteria import Criterion, find_criterion


@dataclass(frozen=True)
class Settled:
    """When a mask has settled: the last `distances` distances are at most `below`; see `EarlyBird`."""

    below: float
    distances: int
    of: str


class MaskEditor(Protocol):
    """What an update may do to the masks of a model in training; see `sparsify_fx.scheduler.pruner.Pruner`."""

    def prune(self, kept: int, draw: int) -> None:
        """Keep `kept` of the living weights by the method's criterion and allocation."""

    def draw_ticket(self, kept: int, draw: int, rule: Settled, last: bool) -> None:
        """Prune, once in a training, as soon as the mask that this would choose has settled, or at the `last` look."""

    def settle(self, kept: int) -> None:
        """Open or close the gates of the parameterization for good, so that at least `kept` weights are left."""

    def grow_all(self) -> None:
        """Every pruned weight comes back, from zero."""

    def regrow(
        self,
        fraction: float,
        growth: Criterion,
        draw: int,
        redistribute: bool = False,
    ) -> None:
        """Drop a fraction of each layer's living weights and grow as many others, there or in other layers."""


class MaskUpdate(Protocol):
    """Something done to the masks at `epoch` of run number `run` (0 is the first)."""

    @property
    def run(self) -> int:
        """The run in which it happens; 0 is the first."""

    @property
    def epoch(self) -> float:
        """Epochs since the start of the run."""

    def label(self, total: int) -> tuple[str, str]:
        """(event, detail) for the timeline; `total` prunable weights."""

    def alive(self, before: int, total: int) -> int:
        """How many of the `total` weights live afterwards, when `before` did until now."""

    def apply(self, pruner: MaskEditor, draw: int) -> None:
        """Change the masks in place.

        Args:
            draw: number of the update in the training, from 1; decides its random numbers together with apply's seed.
        """


@dataclass(frozen=True)
class Prune:
    """Keep `kept` of the living weights."""

    run: int
    epoch: float
    kept: int

    def label(self, total: int) -> tuple[str, str]:
        """The event and how many weights stay."""
        return (
            "prune",
            f"keep {self.kept} of {total} weights, density {self.kept / total:.6g}",
        )

    def alive(self, before: int, total: int) -> int:
        """`kept`, however many lived before."""
        return self.kept

    def apply(self, pruner: MaskEditor, draw: int) -> None:
        """Prune by the method's criterion and allocation."""
        pruner.prune(self.kept, draw)


@dataclass(frozen=True)
class DrawTicket:
    """Keep `kept` of the living weights if their mask has settled, or in any case at the last of these updates."""

    run: int
    epoch: float
    kept: int
    rule: Settled
    last: bool = False

    def label(self, total: int) -> tuple[str, str]:
        """The event, the condition, and how many weights stay."""
        when = "in any case" if self.last else f"if within {self.rule.below:g}"
        return (
            "draw ticket",
            f"{when}, unless drawn: keep {self.kept} of {total} weights, density {self.kept / total:.6g}",
        )

    def alive(self, before: int, total: int) -> int:
        """`kept` after the last one; what an earlier one leaves is known in training alone, at most `before`."""
        return self.kept if self.last else before

    def may_leave(self, before: int) -> set[int]:
        """All that may live afterwards, when `before` did."""
        return {self.kept} if self.last else {before, self.kept}

    def apply(self, pruner: MaskEditor, draw: int) -> None:
        """Look at the mask of now, and prune if it is time."""
        pruner.draw_ticket(self.kept, draw, self.rule, self.last)


@dataclass(frozen=True)
class SettleAndPrune:
    """The end of a method that sparsifies by itself: its gates close or open for good, then `kept` weights stay."""

    run: int
    epoch: float
    kept: int

    def label(self, total: int) -> tuple[str, str]:
        """The event and how many weights stay."""
        return (
            "settle and prune",
            f"keep {self.kept} of {total} weights, density {self.kept / total:.6g}",
        )

    def alive(self, before: int, total: int) -> int:
        """`kept`, however many lived before."""
        return self.kept

    def apply(self, pruner: MaskEditor, draw: int) -> None:
        """Settle, then prune by the method's criterion and allocation."""
        # Gates first: the criterion shall rank the weights that are really left, and settling may bring some back.
        pruner.settle(self.kept)
        pruner.prune(self.kept, draw)


@dataclass(frozen=True)
class Decompress:
    """Every pruned weight comes back, from zero."""

    run: int
    epoch: float

    def label(self, total: int) -> tuple[str, str]:
        """How many weights are trained from then on: every one."""
        return "decompress", f"all {total} weights"

    def alive(self, before: int, total: int) -> int:
        """The whole model, whatever the masks kept before."""
        return total

    def apply(self, pruner: MaskEditor, draw: int) -> None:
        """Fill the masks with ones; what comes back starts from zero."""
        pruner.grow_all()


@dataclass(frozen=True)
class Regrow:
    """Drop a fraction of the living weights of each layer by |θ| and grow as many by the criterion `growth`.

    In the same layer, or with `redistribute` in those whose living weights the criterion likes most.
    """

    run: int
    epoch: float
    fraction: float
    growth: str
    redistribute: bool = False

    def label(self, total: int) -> tuple[str, str]:
        """By which criterion; the fraction changes from time to time."""
        where = " where it is largest" if self.redistribute else ""
        return "regrow", f"drop by magnitude, grow by {self.growth}{where}"

    def alive(self, before: int, total: int) -> int:
        """As many as before: what is dropped is grown elsewhere."""
        return before

    def apply(self, pruner: MaskEditor, draw: int) -> None:
        """Move weights; the number of non-zeros stays."""
        growth = find_criterion(self.growth)
        pruner.regrow(self.fraction, growth, draw, self.redistribute)


def late_criteria(
    criterion: Criterion, updates: Iterable[MaskUpdate]
) -> tuple[Criterion, ...]:
    """The criteria that updates will score by, each once: that of the method, and those of regrowth."""
    # A list and no set: criteria of plugins need not be hashable, and the order is that of the training.
    found: list[Criterion] = []
    for update in updates:
        if isinstance(update, Decompress):
            continue  # it fills the masks and ranks nothing
        rule = (
            find_criterion(update.growth) if isinstance(update, Regrow) else criterion
        )
        if rule not in found:
            found.append(rule)
    return tuple(found)
