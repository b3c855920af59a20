"""Optimizers that treat each entry of a weight by itself, so that a vector of the living ones is trained the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.living.remembered import Remembered
from sparsify_fx.optimizer_states.fresh import small_parameter
from sparsify_fx.optimizer_states.holders import group_of, holders, wrapped
from sparsify_fx.optimizer_states.twin import WAYS, build_twin, places, try_step
from sparsify_fx.randomness import undisturbed

# The first two axes of what is trained. Small at first: a preconditioner of a long vector would take minutes. Then 128
# and more, below which some optimizers do not factor their moments.
_SIZES = ((6, 4), (144, 136))
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
            axes = parameter.dim()
            key = f"{parameter.dtype} {axes} {_options(group)}"
            if key not in answers:
                answers[key] = all(
                    _same(holder, group, parameter.dtype, _shape(size, axes))
                    for size in _SIZES
                )
            if not answers[key]:
                return False
    return True


def _options(group: Any) -> str:
    """The options of a group, without the learning rate, which a schedule changes at every step."""
    left = ("params", "param_names", "lr")
    return repr([(key, value) for key, value in group.items() if key not in left])


def _shape(size: tuple[int, int], axes: int) -> tuple[int, ...]:
    """That size with so many axes; for one axis that many entries."""
    return (size[0] * size[1],) if axes == 1 else (*size, *[1] * (axes - 2))


def _same(holder: Any, group: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> bool:
    dtype = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    matrix = small_parameter(shape, dtype)
    # The dead entries are not zero: a norm over all entries would else be that of the living ones.
    dead = (torch.arange(matrix.numel(), device="cpu") % 3 == 1).reshape(matrix.shape)
    living = ~dead
    vector = nn.Parameter(_entries(matrix.detach(), living).clone())
    with undisturbed(places(matrix.device)):
        # Twins have none of the decay by themselves, and trust ratios of LAMB are for decayed weights alone.
        decay = {name: value for name, value in group.items() if "decay" in name}
        twins = [
            build_twin(holder, group, each, lr=_RATE, **decay)
            for each in (matrix, vector)
        ]
        if None in twins:
            return False
        gradient = small_parameter(matrix.shape, dtype).detach()
        for step in range(_STEPS):
            now = gradient.roll(step).masked_fill(dead, 0.0)
            if step % 2:
                now = _across(now, matrix.detach())
            given = (now, _entries(now, living))
            for twin, each, part in zip(twins, (matrix, vector), given, strict=True):
                if not _stepped(twin, each, part):
                    return False
    kept = _entries(matrix.detach(), living)
    return torch.allclose(kept, vector.detach(), rtol=2e-6, atol=1e-7)


def _entries(tensor: Tensor, living: Tensor) -> Tensor:
    """The living entries as a parameter in living storage has them."""
    return tensor[living].reshape(-1, *[1] * (tensor.dim() - 1))


def _across(gradient: Tensor, weight: Tensor) -> Tensor:
    """The gradient without its part along each row of the weight, as before a norm: some optimizers look for that."""
    rows, along = gradient.reshape(len(gradient), -1), weight.reshape(len(weight), -1)
    along = along * (rows != 0)
    share = (rows * along).sum(1, keepdim=True) / along.square().sum(1, keepdim=True)
    left: Tensor = rows - share.nan_to_num() * along
    return left.view_as(gradient)


def _stepped(twin: Any, parameter: nn.Parameter, gradient: Tensor) -> bool:
    return any(try_step(twin, parameter, gradient, way) for way in WAYS)
