"""Optimizers that treat each entry of a weight by itself, so that a vector of the living ones is trained the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.optimizer_states.fresh import small_parameter
from sparsify_fx.optimizer_states.holders import group_of, holders, wrapped
from sparsify_fx.optimizer_states.remembered import Remembered
from sparsify_fx.optimizer_states.twin import WAYS, build_twin, places, try_step
from sparsify_fx.randomness import undisturbed

_SHAPE = (6, 4)
# Factored moments and preconditioners show at once; what is updated now and then needs some steps.
_STEPS = 5
_RATE = 0.01
_answers: Remembered[dict[str, bool]] = Remembered()


def elementwise(optimizers: Sequence[Any], parameter: nn.Parameter) -> bool:
    """Whether the optimizers would train the living entries of `parameter` alike as a matrix and as a vector.

    Tried, not looked up: a twin trains a small matrix whose dead entries have no gradient, another one the vector of
    its living entries, with the same gradients. Muon and Shampoo need the matrix, Adafactor shares moments between
    rows, LAMB and LARS take the norm of all entries. False also where an optimizer cannot be tried.

    >>> weight = nn.Parameter(torch.ones(4, 4))
    >>> elementwise([torch.optim.AdamW([weight])], weight), elementwise([torch.optim.Muon([weight])], weight)
    (True, False)
    """
    for optimizer in optimizers:
        for holder in holders(optimizer):
            group = group_of(holder, parameter)
            # A wrapper is as its inner optimizer is.
            if group is None or wrapped(holder):
                continue
            answers = _answers.made(holder, dict)
            key = f"{parameter.dtype} {_options(group)}"
            if key not in answers:
                answers[key] = _same(holder, group, parameter.dtype)
            if not answers[key]:
                return False
    return True


def _options(group: Any) -> str:
    """The options of a group, without the learning rate, which a schedule changes at every step."""
    left = ("params", "param_names", "lr")
    return repr([(key, value) for key, value in group.items() if key not in left])


def _same(holder: Any, group: Any, dtype: torch.dtype) -> bool:
    dtype = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    matrix = small_parameter(_SHAPE, dtype)
    # The dead entries are not zero: a norm over all entries would else be that of the living ones.
    dead = (torch.arange(matrix.numel()) % 3 == 1).reshape(_SHAPE)
    living = ~dead
    vector = nn.Parameter(matrix.detach()[living].reshape(-1, 1).clone())
    with undisturbed(places(matrix.device)):
        twins = [build_twin(holder, group, each, lr=_RATE) for each in (matrix, vector)]
        if None in twins:
            return False
        gradient = small_parameter(_SHAPE, dtype).detach()
        for step in range(_STEPS):
            now = gradient.roll(step).masked_fill(dead, 0.0)
            given = (now, now[living].reshape(-1, 1))
            for twin, each, part in zip(twins, (matrix, vector), given, strict=True):
                if not _stepped(twin, each, part):
                    return False
    return torch.allclose(
        matrix.detach()[living], vector.detach().reshape(-1), rtol=1e-4, atol=1e-6
    )


def _stepped(twin: Any, parameter: nn.Parameter, gradient: Tensor) -> bool:
    return any(try_step(twin, parameter, gradient, way) for way in WAYS)
