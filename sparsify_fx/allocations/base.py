"""What an allocation is, the registry, and exact division of a budget in proportion to shares."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from sparsify_fx.errors import SparsityError
from sparsify_fx.registry import Registry


@runtime_checkable
class Allocation(Protocol):
    """Divides `kept` weights among layers."""

    def counts(
        self, scores: Mapping[str, Tensor], capacity: Mapping[str, int], kept: int
    ) -> dict[str, int]:
        """Non-zeros per layer; they sum to `kept` and none exceeds its layer's capacity.

        Args:
            scores: per layer, shape of the weight.
            capacity: how many weights of the layer may stay (its size, or what is alive in a later cycle).
            kept: the whole budget.
        """


@runtime_checkable
class Checked(Protocol):
    """An allocation that meets some budgets only; `apply` asks it before anything changes."""

    def check(self, shapes: Mapping[str, tuple[int, ...]], kept: int) -> None:
        """Raise SparsityError when weights of these shapes cannot end with `kept` non-zeros."""


@runtime_checkable
class Pattern(Protocol):
    """An allocation that constrains where in a layer the non-zeros lie, not only how many there are."""

    def masks(self, scores: Mapping[str, Tensor], kept: int) -> dict[str, Tensor]:
        """The masks themselves; SparsityError when the pattern does not meet the budget."""


@runtime_checkable
class RegrowingPattern(Pattern, Protocol):
    """A pattern that masks which regrow can keep to."""

    def regrown(
        self, sizes: Tensor, wanted: Tensor, moved: tuple[int, int], last: bool
    ) -> Tensor:
        """The mask of a layer after a regrowth.

        Args:
            sizes: abs(θ), −inf where pruned; as [outputs, inputs, ...].
            wanted: the scores of the growth criterion, for all entries.
            moved: how many weights the layer loses, and how many it gains.
            last: whether it is the last layer of the model.
        """


@runtime_checkable
class Chooser(Protocol):
    """An allocation that comes to its masks faster than by counting them layer by layer."""

    def choose(
        self, scores: Mapping[str, Tensor], capacity: Mapping[str, int], kept: int
    ) -> dict[str, Tensor]:
        """The masks that `counts` and the best of each layer would give."""


ALLOCATIONS: Registry[type[Any]] = Registry("allocation")


def proportional(
    shares: Mapping[str, int], capacity: Mapping[str, int], kept: int
) -> dict[str, int]:
    """Divide `kept` in proportion to `shares`, none above its `capacity`; rounded by largest remainder.

    >>> proportional({"a": 1, "b": 1, "c": 1}, {"a": 2, "b": 9, "c": 9}, 11)
    {'a': 2, 'b': 5, 'c': 4}
    """
    check_budget(capacity, kept)
    # Fractions throughout: in floats two layers of equal shares could be rounded apart, and differently elsewhere.
    order = sorted(shares, key=lambda name: Fraction(capacity[name], shares[name]))
    budget, weight = kept, sum(shares.values())
    ideal: dict[str, Fraction] = {}
    # Fullest first: once one layer is not full at the current level, none of the rest is.
    for name in order:
        part = min(Fraction(capacity[name]), Fraction(budget * shares[name], weight))
        ideal[name] = part
        if part == capacity[name]:
            budget, weight = budget - capacity[name], weight - shares[name]
    return rounded({name: ideal[name] for name in shares}, capacity, kept)


def rounded(
    ideal: Mapping[str, Fraction], capacity: Mapping[str, int], kept: int
) -> dict[str, int]:
    """Integers next to `ideal` that sum to `kept`; ties go to the earlier layer."""
    # The ideal shares need not sum to `kept` (those of `PerLayer` are given): weights are added or taken until they do.
    counts = {name: min(int(part), capacity[name]) for name, part in ideal.items()}
    position = {name: i for i, name in enumerate(ideal)}
    while (missing := kept - sum(counts.values())) != 0:
        step = 1 if missing > 0 else -1
        free = [
            n for n in ideal if (counts[n] < capacity[n] if step > 0 else counts[n] > 0)
        ]
        # Largest remainder first. The position breaks ties, so that the order of a dict or a hash never does.
        free.sort(key=lambda n: (-step * (ideal[n] - counts[n]), position[n]))
        for name in free[: abs(missing)]:
            counts[name] += step
    return counts


def check_budget(capacity: Mapping[str, int], kept: int) -> None:
    if not 0 <= kept <= sum(capacity.values()):
        raise SparsityError(
            f"cannot keep {kept} weights of {sum(capacity.values())} that may stay"
        )
