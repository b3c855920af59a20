"""L-BFGS for many small problems at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]


def minimize(
    loss: Function,
    gradient: Function,
    start: Tensor,
    *,
    free: Tensor,
    rate: float = 1.0,
    steps: int = 1000,
    memory: int = 10,
    tolerance: float = 1e-8,
) -> Tensor:
    """Minimize `loss` for every run by L-BFGS with backtracking; each run has its own history and step size.

    Args:
        loss: parameters [runs, k] -> [runs]; gradient: -> [runs, k]; runs must not depend on each other.
        start: [runs, k], float64.
        free: True where a parameter may move, [runs, k]; the others keep their value.
        rate: the share of a quasi-Newton step that is tried first; halved until the loss falls.
        steps: at most so many; a run stops when its largest gradient is below `tolerance`, or no step lowers its loss.
        memory: pairs of steps and gradient differences that are kept.

    Returns the parameters, [runs, k]; no run's loss is above that at its start.

    >>> slope = lambda x: torch.stack([x[:, 0] - 3, 50 * x[:, 1]], 1)
    >>> value = lambda x: ((x[:, 0] - 3).square() + 50 * x[:, 1].square()) / 2
    >>> start = torch.ones(1, 2, dtype=torch.float64)
    >>> minimize(value, slope, start, free=start > 0).round(decimals=6).tolist()
    [[3.0, 0.0]]

    Source: [Liu 1989].
    """
    # A fixed parameter has no slope: then no step and no gradient difference has an entry there, and the
    # quasi-Newton direction stays among the free ones.
    point, history = start.clone(), _History(memory)
    slope = torch.where(free, gradient(point), 0.0)
    value = loss(point)
    moving = torch.ones(len(start), dtype=torch.bool)
    for index in range(steps):
        # A run that has stopped takes steps of length zero from here on; the batch goes on without it.
        moving = moving & (slope.abs().amax(1) > tolerance)
        if not bool(moving.any()):
            break

        # 1. The quasi-Newton direction; straight down where rounding has made it point uphill.
        direction = -history.apply(slope)
        uphill = (direction * slope).sum(1) >= 0
        direction = torch.where(uphill[:, None], -slope, direction)

        # 2. Its length. Without a history the scale of the Hessian is unknown: the first step is at most
        # of length 1 in the 1-norm. Later a whole step is the natural one.
        first = torch.ones_like(value)
        if index == 0:
            first = (1 / slope.abs().sum(1)).clamp(max=1.0)
        descent = (direction * slope).sum(1)
        width = _backtrack(
            loss, point, value, direction, descent, rate * first * moving
        )
        moving = moving & (width > 0)

        # 3. Remember what the step has told of the curvature.
        reached = point + width[:, None] * direction
        new_slope = torch.where(free, gradient(reached), 0.0)
        history.add(reached - point, new_slope - slope)
        point, slope, value = reached, new_slope, loss(reached)
    return point


def _backtrack(
    loss: Function,
    point: Tensor,
    value: Tensor,
    direction: Tensor,
    descent: Tensor,
    width: Tensor,
) -> Tensor:
    """The first halving of `width` that lowers the loss by 1e-4 of what its slope promises; 0 when 40 do not."""
    found = torch.zeros_like(width)
    for _ in range(40):
        lower = (
            loss(point + width[:, None] * direction) <= value + 1e-4 * width * descent
        )
        found = torch.where((found == 0) & lower, width, found)
        if bool(((found > 0) | (width == 0)).all()):
            break
        width = width / 2
    return found


class _History:
    """The last pairs of steps and gradient differences, and the inverse Hessian they imply."""

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._pairs: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, step: Tensor, change: Tensor) -> None:
        """Keep a pair; a run whose curvature along it is not positive forgets it."""
        curvature = (step * change).sum(1)
        # The inverse Hessian stays positive definite only along such pairs. An inverse of 0 drops the pair
        # for its run, while the others of the batch keep theirs.
        sound = curvature > 1e-10 * change.square().sum(1).clamp(min=1e-300)
        self._pairs.append((step, change, torch.where(sound, 1 / curvature, 0.0)))
        del self._pairs[: -self._memory]

    def apply(self, slope: Tensor) -> Tensor:
        """Inverse Hessian times gradient: the recursion of two loops."""
        # 1. From the newest pair to the oldest: take their part off the gradient.
        weights = []
        for step, change, inverse in reversed(self._pairs):
            weight = inverse * (step * slope).sum(1)
            slope = slope - weight[:, None] * change
            weights.append(weight)
        # 2. In between the Hessian is a multiple of the identity, by the curvature of the newest pair.
        if self._pairs:
            step, change, inverse = self._pairs[-1]
            scale = (step * change).sum(1) / change.square().sum(1).clamp(min=1e-300)
            slope = torch.where(inverse > 0, scale, 1.0)[:, None] * slope
        # 3. From the oldest to the newest: put their part back, corrected by what the older ones changed.
        for (step, change, inverse), weight in zip(
            self._pairs, reversed(weights), strict=True
        ):
            slope = slope + (weight - inverse * (change * slope).sum(1))[:, None] * step
        return slope
