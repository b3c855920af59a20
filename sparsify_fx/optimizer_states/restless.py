"""Optimizers that move weights without a gradient: pruned factors drift, unless they are put back after each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from sparsify_fx.living.remembered import Remembered
from sparsify_fx.optimizer_states.fresh import small_parameter
from sparsify_fx.optimizer_states.holders import group_of, holders, wrapped
from sparsify_fx.optimizer_states.twin import WAYS, build_twin, places, try_step
from sparsify_fx.randomness import undisturbed

_SMALL = 4
_STEPS = 8
_RATE = 0.01
_answers: Remembered[dict[Any, bool]] = Remembered()


def restless(optimizers: Sequence[Any], parameter: nn.Parameter) -> bool:
    """Whether an optimizer moves entries that are zero and have no gradient and no state.

    Muon, Shampoo and others mix the entries of a matrix, some add noise. The mask hides this from the layer; the factor
    under it, and with it norms and trust ratios, stay clean only if pruned entries are written back after each step.
    True also where the optimizer cannot be tried.

    >>> weight = nn.Parameter(torch.ones(4, 4))
    >>> restless([torch.optim.AdamW([weight])], weight), restless([torch.optim.Muon([weight])], weight)
    (False, True)
    """
    for optimizer in optimizers:
        for holder in holders(optimizer):
            group = group_of(holder, parameter)
            # A wrapper moves along what its inner optimizer has moved.
            if group is None or wrapped(holder):
                continue
            shape = tuple(min(size, _SMALL) for size in parameter.shape)
            options = repr(
                [
                    (key, value)
                    for key, value in group.items()
                    if key not in ("params", "param_names", "lr")
                ]
            )
            answers = _answers.made(holder, dict)
            key = (shape, parameter.dtype, options)
            # Remembered without the learning rate, which a schedule changes at every step.
            if key not in answers:
                answers[key] = _moves(
                    holder, group, small_parameter(shape, parameter.dtype)
                )
            if answers[key]:
                return True
    return False


def _moves(holder: Any, group: Any, small: nn.Parameter) -> bool:
    """A third of the entries rest at zero; whether they have left it after a few steps."""
    # The trial may draw random numbers and compile; the training must not notice.
    with undisturbed(places(small.device)):
        start = small.detach().clone()
        # Every third entry: with every second one of [4, 4] whole columns would rest, and mixing would not show.
        resting = (torch.arange(small.numel(), device="cpu") % 3 == 1).reshape(
            small.shape
        )
        with torch.no_grad():
            small.masked_fill_(resting, 0.0)
        twin = build_twin(holder, group, small, lr=_RATE)
        # Cannot be tried: writing pruned entries back after each step costs time, drift would cost the result.
        if twin is None:
            return True
        # Some optimizers mix only after a few steps, such as those that update preconditioners now and then.
        for step in range(_STEPS):
            gradient = (
                small_parameter(tuple(small.shape), small.dtype)
                .detach()
                # Another gradient at every step, so that no pattern of a single one hides the mixing.
                .roll(step)
                .masked_fill(resting, 0.0)
            )
            if not any(try_step(twin, small, gradient, way) for way in WAYS):
                return True
        moved = small.detach() != start.masked_fill(resting, 0.0)
        # Where nothing moved, as in a silent start or where parameters are trained in pairs, nothing was learned.
        return bool(moved[resting].any()) or not bool(moved.any())
