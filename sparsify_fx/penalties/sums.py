"""Sums of penalties, such as a decay of the factors beside one of the weight itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify_fx.errors import MethodError
from sparsify_fx.penalties.base import AdaptivePenalty, NoPenalty, Penalty
from sparsify_fx.programs.program import WeightProgram


@dataclass(frozen=True)
class PenaltySum:
    """Σ of several penalties, of which at most one adapts its strength; the others are constant, to the very end.

    Written as a list: `penalty=["factors", {"name": "frobenius", "strength": 5e-5}]`. After the final pruning of the
    schedule `late` the adaptive one is off, and the others go on.

    Attributes:
        parts: two penalties or more, of different kinds; none of them `none` or a sum.

    Raises MethodError for other parts.

    >>> from sparsify_fx.penalties import FactorDecay, Frobenius
    >>> [type(part).__name__ for part in PenaltySum((FactorDecay(2e-5), Frobenius(3e-5))).parts]
    ['FactorDecay', 'Frobenius']

    Source: [Jacobs 2025], appendix C.2: α(‖m‖² + ‖w‖²) and L2 of m ⊙ w, in place of weight decay.
    """

    parts: tuple[Penalty, ...]

    def __post_init__(self) -> None:
        told = [type(part).__name__ for part in self.parts]
        if len(told) < 2 or any(
            isinstance(part, (NoPenalty, PenaltySum)) for part in self.parts
        ):
            raise MethodError(
                f"penalty: a sum of {told or 'nothing'}: give two penalties or more, and neither 'none' nor a sum"
            )
        # Two of one kind are one with the sum of their strengths; most likely a slip.
        if len(set(told)) < len(told):
            raise MethodError(f"penalty: a sum of {told} has one kind twice")
        leads = [type(part).__name__ for part in self.parts if leading(part)]
        if len(leads) > 1:
            raise MethodError(
                f"penalty: {' and '.join(leads)} both adapt their strength, and a sum holds at most one that does; "
                "keep the others constant, with reach=1"
            )

    @property
    def without_decay(self) -> tuple[str, ...]:
        """The groups that any of the parts decays itself."""
        groups: dict[str, None] = {}
        for part in self.parts:
            groups |= dict.fromkeys(getattr(part, "without_decay", ()))
        return tuple(groups)

    def __call__(self, programs: Iterable[WeightProgram]) -> Tensor:
        """The sum, each part at its own strength."""
        # Each part goes through them once, so an iterator must not be used up by the first.
        found = list(programs)
        return torch.stack([part(found) for part in self.parts]).sum()


def leading(penalty: Penalty) -> bool:
    """Whether the Scheduler changes the strength: an adaptive penalty, but for one that `reach=1` keeps constant."""
    return isinstance(penalty, AdaptivePenalty) and getattr(penalty, "reach", None) != 1


def split(penalty: Penalty) -> tuple[AdaptivePenalty | None, tuple[Penalty, ...]]:
    """(the penalty that adapts its strength, the others).

    Of a single penalty, or where a sum has none that is led, the first adaptive one: its strength stays as it is.
    """
    parts = penalty.parts if isinstance(penalty, PenaltySum) else (penalty,)
    adaptive = [part for part in parts if isinstance(part, AdaptivePenalty)]
    led = next(filter(leading, adaptive), adaptive[0] if adaptive else None)
    others = tuple(
        part for part in parts if part is not led and not isinstance(part, NoPenalty)
    )
    return led, others
