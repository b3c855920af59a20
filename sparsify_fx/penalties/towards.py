"""The rule by which a penalty's strength is led so that the requested sparsity is reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparsify_fx.errors import MethodError
from sparsify_fx.penalties.base import Observation, check_strength

# The path ends at 1.5 times the budget; the exact pruning takes the rest.
SLACK = 1.5
# Fewer than 1.25 times the budget are too few.
CEILING = 1.25
# Adaptations on the way to the final pruning, at most one a step.
UPDATES = 1000


@dataclass(frozen=True)
class TowardsSparsity:
    """A strength that follows a path of the share of near-zero weights, where a method must reach a sparsity itself.

    With the share z of near-zero weights, the requested sparsity s and the progress t to the final pruning::

        goal(t) = (1 − 1.5·(1 − s)) · (1 − (1 − t)³), at least 0        ceiling = 1 − 1.25·(1 − s)
        z < goal(t): the level is applied, and grows like reach^(2t), up to reach times its start; not while all weights
            together have shrunk to less than `floor` of their first norm
        goal(t) <= z <= ceiling: nothing is applied
        z > ceiling: nothing is applied; minus the level where that opens gates again (reversible)
        z came to the goal from below since the last time: the level is halved

    This happens after every step, or 1000 times on the way in long runs. Where a schedule brings the masks, the
    strength is constant.

    Attributes:
        strength: the level at the start, >= 0.
        reach: how far the level may grow, >= 1; 1 keeps the strength constant.
        floor: a share of the first ‖θ‖₂, in [0, 1); 0 lets the weights shrink without end, which costs nothing in front
            of batch norm and ends a net without it.

    Raises MethodError for other numbers.
    """

    strength: float = 1e-4
    reach: float = 100.0
    floor: float = 0.0
    every_epoch: ClassVar[bool] = False
    reversible: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_strength(type(self).__name__.lower(), self.strength)
        if not 1 <= self.reach < float("inf"):
            raise MethodError(
                f"{type(self).__name__.lower()}: reach={self.reach!r} must be >= 1; 1 keeps it constant"
            )
        if not 0 <= self.floor < 1:
            raise MethodError(
                f"{type(self).__name__.lower()}: floor={self.floor!r} must be in [0, 1), for instance 0.3"
            )

    def adapt(
        self, level: float, before: Observation | None, now: Observation
    ) -> tuple[float, float]:
        """The rule above."""
        # A schedule that prunes brings the sparsity itself: leading the strength as well would only hurt.
        if self.reach == 1 or now.sparsity is None:
            return level, level
        below = _below(now)
        # Everything shrinks together, not the small weights alone: more of it would end a net without batch norm.
        if below and now.norm < self.floor:
            return level, 0.0
        if below:
            # By the progress and not by the number of calls: long and short runs grow alike.
            passed = now.progress - (0.0 if before is None else before.progress)
            level = min(level * self.reach ** (2 * passed), self.strength * self.reach)
        elif before is not None and _below(before):
            # It came up to the goal from below, so the last level was enough: half of it is tried next time.
            level /= 2
        # A minus only where gates can open again; weights that a penalty has shrunk do not come back by its sign.
        above = now.near_zero > 1 - CEILING * (1 - now.sparsity)
        return level, level if below else -level if above and self.reversible else 0.0


def goal(sparsity: float, progress: float) -> float:
    """The share of near-zero weights to be reached at `progress`.

    >>> round(goal(0.9, 1.0), 6), round(goal(0.9, 0.5), 6)
    (0.85, 0.74375)
    """
    return float(max(0.0, 1 - SLACK * (1 - sparsity)) * (1 - (1 - progress) ** 3))


def _below(seen: Observation) -> bool:
    assert seen.sparsity is not None
    return seen.near_zero < goal(seen.sparsity, seen.progress)
