"""Gradient flows: ordinary differential equations for many runs at once, integrated with error control."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sparsify_fx.errors import LabError

Field = Callable[[Tensor, Tensor], Tensor]

# The pair of orders 5 and 4 of [Dormand 1980]: nodes, stages, and the weights of order 5 minus order 4.
# The last stage lies at the solution of order 5, so that its point is the step and needs no weights of its own.
_NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def integrate(
    field: Field,
    start: Tensor,
    times: Tensor,
    *,
    rtol: float = 1e-9,
    atol: float = 1e-12,
    max_steps: int = 200_000,
) -> Tensor:
    """The solution of dy/dt = field(t, y) at `times`; every run has its own step size.

    Args:
        field: maps t [runs] and y [runs, k] to dy/dt [runs, k]; runs must not depend on each other.
        start: y at times[0], [runs, k], float64.
        times: increasing, [steps].
        rtol, atol: a step is taken when its error is below atol + rtol·|y| in every component.
        max_steps: tried steps between two neighboring times.

    Returns [steps, runs, k].

    Raises LabError for input that is not float64, and when `max_steps` do not suffice.

    >>> decay = integrate(lambda t, y: -y, torch.ones(1, 1).double(), torch.tensor([0.0, 1.0]).double())
    >>> f"{float(decay[-1]):.10f}"
    '0.3678794412'

    Source: [Dormand 1980].
    """
    if start.dtype != torch.float64 or start.dim() != 2:
        raise LabError(
            f"start must be float64 of shape [runs, k], got {start.dtype} {tuple(start.shape)}"
        )
    kept, state = [start], start
    time = times[:1].double().expand(len(start)).clone()
    step = torch.full_like(time, 1e-3)
    for end in times[1:].tolist():
        state, time, step = _advance(
            field, state, time, step, end, rtol, atol, max_steps
        )
        kept.append(state)
    return torch.stack(kept)


def _advance(
    field: Field,
    state: Tensor,
    time: Tensor,
    step: Tensor,
    end: float,
    rtol: float,
    atol: float,
    max_steps: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """State, time and proposed step once every run has reached `end`."""
    for _ in range(max_steps):
        # Runs that have arrived stay in the batch with a step of zero: they cost little, and the
        # tensors keep their shape.
        left = end - time
        if not bool((left > 0).any()):
            return state, time, step

        # 1. Try a step, cut short where it would pass `end`.
        last = step >= left
        taken = torch.where(last, left, step)
        proposed, error = _try_step(field, time, state, taken)

        # 2. The worst component decides for its whole run. A step into infinity or NaN counts as
        # a large error, and is tried again with a fifth of its length.
        scale = atol + rtol * torch.maximum(state.abs(), proposed.abs())
        ratio = (error.abs() / scale).amax(1).nan_to_num(nan=1e9, posinf=1e9)
        accepted = ratio <= 1
        state = torch.where(accepted[:, None], proposed, state)
        # `end` itself and not the sum, whose rounding could miss it by an ulp.
        reached = torch.where(last, torch.full_like(time, end), time + taken)
        time = torch.where(accepted, reached, time)

        # 3. The error of order 4 grows with the fifth power of the step: the power -1/5 of its ratio
        # aims at a ratio of 1, and 0.9 keeps a little below.
        changed = taken * (0.9 * ratio.clamp(min=1e-10) ** -0.2).clamp(0.2, 5.0)
        # A step cut short at `end` says nothing about the next.
        step = torch.where(accepted & last, step, changed)
    raise LabError(
        f"the flow needs more than {max_steps} steps before t = {end}; loosen rtol or raise max_steps"
    )


def _try_step(
    field: Field, time: Tensor, state: Tensor, step: Tensor
) -> tuple[Tensor, Tensor]:
    """The state of order 5 one step on, and its difference to order 4."""
    width = step[:, None]
    slopes: list[Tensor] = []
    point = state
    for node, weights in zip(_NODES, _STAGES, strict=True):
        if weights:
            point = state + width * _combine(weights, slopes)
        slopes.append(field(time + node * step, point))
    return point, width * _combine(_ERROR, slopes)


def _combine(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    total = torch.zeros_like(slopes[0])
    for weight, slope in zip(weights, slopes, strict=True):
        if weight:
            total = total + weight * slope
    return total
