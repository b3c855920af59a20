"""shrink: cut out of a model what nothing reads."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsify_fx.coupling.classes import Ids
from sparsify_fx.coupling.groups import Coupling, coupled_groups, value_classes
from sparsify_fx.errors import LayerError
from sparsify_fx.programs.owners import programs
from sparsify_fx.shrinking.cutting import (
    attributes_of,
    classes_that_stay,
    cut_model,
    kept_slices,
    under_all_names,
)
from sparsify_fx.shrinking.optimizer import check_states, cut_states
from sparsify_fx.shrinking.record import Attribute, Kept, Shrunk, count, named_tensors
from sparsify_fx.shrinking.trial import Trial

_LOG = logging.getLogger(__name__)
_TRIALS = 40  # each copies and runs the model


def shrink(
    model: nn.Module,
    example_inputs: Any,
    optimizer: Optimizer | Iterable[Optimizer] = (),
) -> Shrunk:
    """Cut channels that nothing reads out of `model`, in place; its classes stay, and its outputs in eval mode.

    A channel goes when every layer that reads it has zeros there, or reads it for channels that go themselves, together
    with all that is coupled with it (`coupled_groups`): rows of the layers that make it, columns of those that read it,
    entries of norms, whole heads of attention. The cut is tried on a copy first, in double precision where the model
    runs in it; what the model's code does not survive stays, with a note.

    Args:
        model: a plain model, or one after `merge`.
        example_inputs: a tensor, a tuple of arguments, or a dict of them by name.
        optimizer: one or several that train it; their state is cut alike.

    Raises LayerError for a model with weight programs (`merge` it first) and for state of an optimizer that has another
    shape than its parameter. After an error nothing has changed.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> _ = net[2].weight.data[:, 3:].zero_()
    >>> shrink(net, torch.ones(1, 4)).parameters, net[0]
    ((58, 23), Linear(in_features=4, out_features=3, bias=True))
    """
    if programs(model):
        raise LayerError(
            f"{type(model).__name__} has weight programs; call sparsify_fx.merge(model) first, then shrink it"
        )
    coupling = coupled_groups(model, example_inputs)
    before = count(model)
    if not coupling.traced:
        return Shrunk({}, {}, (), (coupling.note,), (before, before))

    # 1. What may go, tried on copies, so that nothing has changed when all of it fails.
    optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
    search = _Search(model, coupling, Trial(model, example_inputs))
    allowed = search.largest()
    kept, attributes = search.cuts(allowed)
    check_states(model, kept, optimizers)

    # 2. The same cut of the model itself.
    shapes = {n: tuple(t.shape) for n, t in named_tensors(model).items() if n in kept}
    cut_states(model, kept, optimizers)
    cut_model(model, kept, attributes)
    for note in search.notes:
        _LOG.warning("%s: %s", type(model).__name__, note)
    after = count(model)
    return Shrunk(shapes, kept, tuple(attributes), tuple(search.notes), (before, after))


class _Search:
    """The largest set of classes whose removal the model survives."""

    def __init__(self, model: nn.Module, coupling: Coupling, trial: Trial) -> None:
        self.model, self.coupling, self.trial = model, coupling, trial
        self.weights: dict[str, Tensor] = named_tensors(model)
        self.notes: list[str] = []
        self.kinds = self._kinds()
        self.failed: set[str] = set()
        self.trials = 0

    def largest(self) -> Ids:
        """All that may go; where that fails, family by family, those first whose sizes no code reshapes."""
        families = self.coupling.families()
        families.sort(key=self._kind)
        chosen = self._grown([], families)
        return np.concatenate(chosen) if chosen else np.zeros(0, np.int64)

    def cuts(self, allowed: Ids) -> tuple[Kept, list[Attribute]]:
        """The slices that stay when these classes may go, and the numbers that change."""
        stays = classes_that_stay(self.coupling, self.weights, allowed)
        kept = under_all_names(self.model, kept_slices(self.coupling, stays))
        return kept, attributes_of(self.model, self.coupling, stays, kept)

    def _kinds(self) -> dict[int, str]:
        """The kind of module that reshapes each class; what is in none is missing."""
        found = {}
        for item in self.coupling.resized:
            stack = item.node.meta.get("nn_module_stack") or {}
            kind = str([entry[1] for entry in stack.values()][-1]) if stack else "?"
            classes = np.unique(value_classes(self.coupling, item.before))
            found.update(dict.fromkeys(classes[classes > 0].tolist(), kind))
        return found

    def _kind(self, family: Ids) -> str:
        return max(self.kinds.get(member, "") for member in family.tolist())

    def _grown(self, base: list[Ids], more: Sequence[Ids]) -> list[Ids]:
        """`base` and as many of `more` as the model survives, by halves."""
        # What one module of a kind does not survive, the next does not either.
        more = [family for family in more if self._kind(family) not in self.failed]
        if not more:
            return base
        failure = self._failure([*base, *more])
        if not failure:
            return [*base, *more]
        if len(more) == 1 or self.trials >= _TRIALS:
            kind = self._kind(more[0])
            self.failed |= {kind} if kind else set()
            where = f", and in every other {kind}," if kind else ""
            self.notes.append(f"{self._described(more)}{where} stay: {failure}")
            return base
        middle = len(more) // 2
        return self._grown(self._grown(base, more[:middle]), more[middle:])

    def _failure(self, families: list[Ids]) -> str:
        kept, attributes = self.cuts(np.concatenate(families))
        if not kept:
            return ""
        self.trials += 1
        return self.trial.failure(lambda trial: cut_model(trial, kept, attributes))

    def _described(self, families: Sequence[Ids]) -> str:
        """How many channels, and the first tensor that they are in."""
        mine = np.concatenate(families)
        for name, axes in self.coupling.axes.items():
            if any(np.isin(ids, mine).any() for ids in axes.values()):
                return f"{mine.size} channels of {name} and what is coupled with them"
        return f"{mine.size} channels"
