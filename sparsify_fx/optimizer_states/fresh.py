"""What a new parameter's state would be, entry by entry, in any optimizer."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.errors import OptimizerStateWarning
from sparsify_fx.living.remembered import Remembered
from sparsify_fx.optimizer_states.holders import Path, Place, walk, wrapped
from sparsify_fx.optimizer_states.twin import first_state

# Copies of the parameter that wrappers, or later steps, make: no twin of two steps shows them.
COPIES = frozenset(
    (
        "lookahead_slow_buff",
        "slow_params",
        "slow_buffer",
        "backup_params",
        "trac",
        "old_p",
        "master_param",
    )
)
# Entries of the twin's parameter along each axis.
_SMALL = 3
# Answers that are remembered for one optimizer.
_MOST = 64
_unasked: Remembered[bool] = Remembered()
_answers: Remembered[dict[Any, Fresh]] = Remembered()


@dataclass(frozen=True)
class Fresh:
    """The first state of a new parameter.

    Attributes:
        constants: the value that all entries have, by path.
        copies: paths of copies of the parameter.
        shapes: of all tensors, by path.
    """

    constants: Mapping[Path, float]
    copies: frozenset[Path]
    shapes: Mapping[Path, torch.Size]


def ask(place: Place, parameter: nn.Parameter) -> Fresh:
    """What the optimizer says about a small parameter with as many axes; remembered as long as its options stay."""
    # Axes of one entry stay such: some optimizers treat them as vectors. A scalar is asked as two entries, so that
    # state with an entry for each can be told from counters.
    shape = _small_shape(parameter)
    options = tuple(
        (key, repr(value))
        for key, value in place.group.items()
        if key not in ("params", "param_names")
    )
    key = (shape, parameter.dtype, options)
    answers = _answers.made(place.holder, dict)
    if key not in answers:
        # The learning rate is part of the question, and under a schedule it is another one at every event.
        if len(answers) >= _MOST:
            answers.clear()
        answers[key] = _ask(place, small_parameter(shape, parameter.dtype))
    return answers[key]


def _small_shape(parameter: Tensor) -> tuple[int, ...]:
    return tuple(min(size, _SMALL) for size in parameter.shape) or (2,)


def small_parameter(shape: tuple[int, ...], dtype: torch.dtype) -> nn.Parameter:
    """Different values of both signs, none of them a likely constant, and exact also in bfloat16."""
    index = torch.arange(torch.Size(shape).numel(), device="cpu")
    # 17/128 and up: a copy is recognized by its values, which must not look like 0, 1 or a learning rate.
    values = (17 + 2 * (index % 31)) / 128 * (1 - 2 * (index % 2))
    return nn.Parameter(values.reshape(shape).to(dtype))


def _ask(place: Place, small: nn.Parameter) -> Fresh:
    constants: dict[Path, float] = {}
    copies, shapes = set(), {}
    for path, tensor in _first_tensors(place, small).items():
        shapes[path] = tensor.shape
        if tensor.shape != small.shape:
            continue
        flat = tensor.flatten()
        # In the parameter's dtype: master copies in float32 of a bfloat16 parameter are copies too.
        if torch.equal(tensor.to(small.dtype), small.detach()):
            copies.add(path)
        elif bool((flat == flat[0]).all()):
            constants[path] = flat[0].item()
    return Fresh(constants, frozenset(copies), shapes)


def _first_tensors(place: Place, small: nn.Parameter) -> dict[Path, Tensor]:
    """All tensors of the first state; where a gradient of zero makes none, those that do not depend on the gradient."""
    found = dict(walk(first_state(place, small)))
    if found:
        return found
    # Two gradients: what is the same after both does not come from the gradient.
    one, two = (
        dict(walk(first_state(place, small, gradient))) for gradient in (1e-3, 2e-3)
    )
    return {
        path: tensor
        for path, tensor in one.items()
        if path in two and torch.equal(tensor, two[path])
    }


def full_answer(place: Place, parameter: nn.Parameter) -> dict[Path, Tensor]:
    """The first state of a new parameter with the values and the shape of `parameter`, where a small one differs."""
    clone = nn.Parameter(parameter.detach().clone())
    return dict(walk(first_state(place, clone)))


def fresh_values(
    place: Place, parameter: nn.Parameter, paths: list[Path]
) -> dict[Path, Tensor | float]:
    """The fresh value of every path: a number, or a tensor with an entry for every entry of the parameter.

    A path about which nothing is known gets zero, as almost every state starts.
    """
    answer = ask(place, parameter)
    found: dict[Path, Tensor | float] = {}
    for path in paths:
        # 1. One number for all entries, as almost every state has.
        if path in answer.constants:
            found[path] = answer.constants[path]
        elif is_copy(answer, path):
            found[path] = parameter.detach()
    # 2. What the small parameter did not tell is asked with the full one: state that depends on size or values.
    open_paths = [path for path in paths if path not in found]
    if open_paths:
        full = full_answer(place, parameter)
        found |= {
            path: full[path]
            for path in open_paths
            if path in full and full[path].shape == parameter.shape
        }
        if not answer.shapes and not full and not wrapped(place.holder):
            _name_unasked(place)
    # 3. Zero for the rest.
    return {path: found.get(path, 0.0) for path in paths}


def _name_unasked(place: Place) -> None:
    # Once for each optimizer: prunings come often.
    if not _unasked.get(place.holder):
        _unasked.put(place.holder, True)
        warnings.warn(
            f"{type(place.holder).__name__} cannot be tried on a small parameter of its own, so sparsify_fx cannot see "
            "what the state of a new parameter is; it takes zeros for weights that are pruned or come back",
            OptimizerStateWarning,
            stacklevel=4,
        )


def is_by_entry(place: Place, parameter: nn.Parameter, path: Path) -> bool:
    """Whether a new parameter would have a value for each entry there, whatever is there now."""
    answer = ask(place, parameter)
    return is_copy(answer, path) or answer.shapes.get(path) == _small_shape(parameter)


def is_copy(answer: Fresh, path: Path) -> bool:
    """Whether the state at `path` is a copy of the parameter (an average, a slow or an early one)."""
    return path in answer.copies or path[0] in COPIES
