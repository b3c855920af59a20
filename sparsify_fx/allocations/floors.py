"""`min_per_layer`: no layer falls below so many weights."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sparsify_fx.errors import MethodError, SparsityError
from sparsify_fx.registry import added_option

Counts = dict[str, int]
Divide = Callable[[Mapping[str, Tensor], Mapping[str, int], int], Counts]


@dataclass(frozen=True)
class Floored(abc.ABC):
    """What the allocations that divide freely have in common: an optional least number of weights for each layer.

    Layers that would get fewer are given that many, and the rest of the budget is divided among the others by the same
    rule, until none is short. The budget stays exact.

    Attributes:
        min_per_layer: a whole number of weights >= 1 (all of a layer that has fewer), or a share of each layer as a
            fraction in (0, 1), rounded up; None: a layer may lose all its weights.

    Raises SparsityError for another number, or when the least numbers exceed the budget.
    """

    min_per_layer: int | float | None = added_option(None)

    def __post_init__(self) -> None:
        least = self.min_per_layer
        # The type tells a number from a share: 1 is one weight, 1.0 is neither.
        whole = isinstance(least, int) and not isinstance(least, bool) and least >= 1
        if (
            least is not None
            and not whole
            and not (isinstance(least, float) and 0 < least < 1)
        ):
            raise SparsityError(
                f"min_per_layer={least!r} must be a number of weights (16) or a share of each layer (0.01), or None"
            )

    @abc.abstractmethod
    def divide(
        self, scores: Mapping[str, Tensor], capacity: Mapping[str, int], kept: int
    ) -> Counts:
        """The rule itself, without floors."""

    def counts(
        self, scores: Mapping[str, Tensor], capacity: Mapping[str, int], kept: int
    ) -> Counts:
        """Non-zeros per layer; they sum to `kept`, none exceeds its capacity or falls below its floor."""
        # Divided freely first: where no layer is short the floors cost nothing and change nothing.
        counts = self.divide(scores, capacity, kept)
        floors = self.floors(
            {name: score.numel() for name, score in scores.items()}, kept
        )
        return raised(self.divide, counts, (scores, capacity, kept), floors)

    def floors(self, sizes: Mapping[str, int], kept: int) -> Counts:
        """The least number of weights of each layer; SparsityError when they exceed the budget."""
        least = self.min_per_layer
        if least is None:
            return dict.fromkeys(sizes, 0)
        floors = {
            # A layer smaller than the floor keeps all it has: asking for more could never be met.
            name: min(
                size,
                least if isinstance(least, int) else math.ceil(least * size - 1e-9),
            )
            for name, size in sizes.items()
        }
        if sum(floors.values()) > kept:
            raise SparsityError(
                f"min_per_layer={least!r} keeps at least {sum(floors.values())} weights in {len(sizes)} layers, the "
                f"budget is {kept}; ask for less of each layer, or for a lower sparsity"
            )
        return floors

    def check(self, shapes: Mapping[str, tuple[int, ...]], kept: int) -> None:
        """Raise SparsityError when the floors exceed the budget."""
        self.floors({name: math.prod(shape) for name, shape in shapes.items()}, kept)


def raised(
    divide: Divide,
    counts: Counts,
    asked: tuple[Mapping[str, Tensor], Mapping[str, int], int],
    floors: Counts,
) -> Counts:
    """`counts` with every layer at its floor (or its capacity) at least; the others share what is left by `divide`."""
    scores, capacity, kept = asked
    # In later cycles a layer may have fewer weights alive than its floor.
    least = {name: min(floor, capacity[name]) for name, floor in floors.items()}
    pinned: Counts = {}
    # Giving to layers that are short takes from the others, which may fall short in turn. Each round pins at least one
    # more layer, so this ends after as many rounds as there are layers.
    while short := [
        name for name in scores if name not in pinned and counts[name] < least[name]
    ]:
        pinned |= {name: least[name] for name in short}
        free = {name: score for name, score in scores.items() if name not in pinned}
        room = {name: capacity[name] for name in free}
        counts = divide(free, room, kept - sum(pinned.values()))
    return {name: pinned[name] if name in pinned else counts[name] for name in scores}


def with_min_per_layer(allocation: Any, min_per_layer: int | float | None) -> Any:
    """The allocation with this `min_per_layer`; None leaves it alone.

    Raises MethodError for an allocation that has no such option, because it decides every layer by itself.

    >>> from sparsify_fx.allocations import Global
    >>> with_min_per_layer(Global(), 16)
    Global(min_per_layer=16)
    """
    if min_per_layer is None:
        return allocation
    if not isinstance(allocation, Floored):
        raise MethodError(
            f"min_per_layer={min_per_layer!r} has no effect on {allocation}, which decides each layer by itself; "
            "leave it out, or use allocation='global', 'erk', 'balanced' or 'uniform'"
        )
    return dataclasses.replace(allocation, min_per_layer=min_per_layer)
