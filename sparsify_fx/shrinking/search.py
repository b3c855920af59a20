"""The largest set of channels whose removal a model's code survives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsify_fx.coupling.classes import Ids
from sparsify_fx.coupling.groups import Coupling, value_classes
from sparsify_fx.sharding import copy_in_full
from sparsify_fx.shrinking.cutting import (
    attributes_of,
    classes_that_stay,
    cut_model,
    kept_slices,
    layer_numbers,
    under_all_names,
)
from sparsify_fx.shrinking.record import Attribute, Kept, named_tensors
from sparsify_fx.shrinking.trial import Trial

_TRIALS = 40  # each copies and runs the model


def survivors(model: nn.Module, coupling: Coupling, example_inputs: Any) -> tuple[Ids, list[str]]:  # fmt: skip
    """(the classes that could be cut out of the model if nothing read them, what could not and why).

    Tried on a copy, of which nothing reads about half of the classes of each width, here and there.
    """
    generator = np.random.default_rng(0)
    half = [generator.permutation(f)[: f.size // 2] for f in coupling.families()]
    gone = np.concatenate([*half, np.zeros(0, np.int64)])
    if not coupling.traced or not gone.size:
        return coupling.removable(), []
    copied = copy_in_full(model)
    unread(copied, coupling, gone)
    search = Search(copied, coupling, Trial(copied, example_inputs, coupling.mixing()))
    return search.largest(), search.notes


@torch.no_grad()
def unread(model: nn.Module, coupling: Coupling, classes: Ids) -> None:
    """Zero all weights that read these classes, in place."""
    weights = named_tensors(model)
    for reading in coupling.readings:
        weight = weights[reading.weight]
        columns = torch.from_numpy(np.isin(reading.inputs, classes)).to(weight.device)
        (weight.transpose(0, 1) if not reading.transposed else weight)[columns] = 0


class Search:
    """The largest set of classes whose removal the model survives.

    Args:
        living: what stands for weights where it is told what is read: masks, say.
    """

    def __init__(
        self,
        model: nn.Module,
        coupling: Coupling,
        trial: Trial,
        living: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        self.model, self.coupling, self.trial = model, coupling, trial
        self.weights: dict[str, Tensor] = {**named_tensors(model), **living}
        self.notes: list[str] = []
        self.kinds = self._kinds()
        self.failed: set[str] = set()
        self.unmeant: set[tuple[type, str]] = set()
        self.trials = 0
        self.training = False

    def largest(self) -> Ids:
        """All that may go; where that fails, family by family, those first whose sizes no code reshapes."""
        families = self.coupling.families()
        families.sort(key=self._kind)
        chosen = self._grown([], families)
        # Heads that only training uses read channels that evaluation does not: looked at once, where that is enough.
        if chosen and self.trial.trains and self._failure(chosen, training=True):
            self.training = True
            chosen = self._grown([], chosen)
        return np.concatenate(chosen) if chosen else np.zeros(0, np.int64)

    def cuts(self, allowed: Ids) -> tuple[Kept, list[Attribute]]:
        """The slices that stay when these classes may go, and the numbers that change."""
        stays = classes_that_stay(self.coupling, self.weights, allowed)
        kept = under_all_names(self.model, kept_slices(self.coupling, stays))
        found = attributes_of(self.model, self.coupling, stays, kept)
        # In another module of the class the number may be no other's equal, and is meant.
        equal = Counter((item.module, str(item.before)) for item in found)
        return kept, [
            item
            for item in found
            if equal[item.module, str(item.before)] == 1
            or self._number(item) not in self.unmeant
        ]

    def _number(self, item: Attribute) -> tuple[type, str]:
        """The class of the module of a change, and the name of the number."""
        return type(self.model.get_submodule(item.module)), item.name

    def needed(self, kept: Kept, attributes: list[Attribute]) -> list[Attribute]:
        """Without numbers that are equal to a size by chance, such as a longest length that is as large as a width.

        Those are numbers that the code does not use as sizes of tensors; and, of several equal numbers of one module,
        those without which the model does the same.
        """
        groups = self._by_number(attributes, kept)
        every = [(i.module, i.name) for i in chain.from_iterable(groups.values())]
        if not every:
            return attributes
        read = self.trial.sizes_read(every)
        left = attributes
        # 1. What is no size goes first: it is no rival of one.
        for mine in groups.values():
            if not any((i.module, i.name) in read for i in mine):
                fewer = self._without(mine, left, kept)
                left = left if fewer is None else fewer
        # 2. Of equal sizes, those that are not needed.
        for mine in groups.values():
            others = {(i.module, str(i.before)): i for i in left if i not in mine}
            equal = [others.get((i.module, str(i.before))) for i in mine]
            rivals = [item for item in equal if item is not None]
            if not all(i in left for i in mine) or len(rivals) < len(mine):
                continue
            fewer = self._without(mine, left, kept)
            if fewer is not None:
                if self._without(rivals, left, kept) is not None:
                    self.notes.append(_ambiguous(mine[0], rivals[0]))
                left = fewer
        return left

    def _by_number(
        self, attributes: list[Attribute], kept: Kept
    ) -> dict[tuple[type, str], list[Attribute]]:
        """The changes of each number of a class of modules; torch's own layers say what theirs are."""
        found: dict[tuple[type, str], list[Attribute]] = {}
        norms = {(norm.path, "num_features") for norm in self.coupling.bare}
        for item in attributes:
            module = self.model.get_submodule(item.module)
            own = item.name in layer_numbers(item.module, module, kept)
            if not own and (item.module, item.name) not in norms:
                found.setdefault(self._number(item), []).append(item)
        return found

    def _without(
        self, mine: list[Attribute], all_of_them: list[Attribute], kept: Kept
    ) -> list[Attribute] | None:
        """The changes without `mine`, where the model does the same without those; else None."""
        fewer = [item for item in all_of_them if item not in mine]
        change = partial(cut_model, kept=kept, attributes=fewer)
        return None if self.trial.failure(change, training=True) else fewer

    def _kinds(self) -> dict[int, str]:
        """The kind of module that reshapes each class; what is in none is missing."""
        found = {}
        for item in self.coupling.resized:
            classes = np.unique(value_classes(self.coupling, item.before))
            found.update(dict.fromkeys(classes[classes > 0].tolist(), item.kind))
        return found

    def _kind(self, family: Ids) -> str:
        return max(self.kinds.get(member, "") for member in family.tolist())

    def _grown(self, base: list[Ids], more: Sequence[Ids]) -> list[Ids]:
        """`base` and as many of `more` as the model survives, by halves."""
        # What one module of a kind does not survive, the next does not either.
        more = [family for family in more if self._kind(family) not in self.failed]
        if not more:
            return base
        failure = self._failure([*base, *more], self.training)
        if not failure:
            return [*base, *more]
        if len(more) == 1 and self._with_one_of_two(base, more[0]):
            return [*base, more[0]]
        if len(more) == 1 or self.trials >= _TRIALS:
            kind = self._kind(more[0])
            self.failed |= {kind} if kind else set()
            where = f", and in every other {kind}," if kind else ""
            self.notes.append(f"{self._described(more)}{where} stay: {failure}")
            return base
        middle = len(more) // 2
        return self._grown(self._grown(base, more[:middle]), more[middle:])

    def _with_one_of_two(self, base: list[Ids], family: Ids) -> bool:
        """Whether the model survives where one of two equal numbers stays: 8 heads of 8 channels, say.

        That number stays from then on.
        """
        kept, attributes = self.cuts(np.concatenate([*base, family]))
        sizes: dict[tuple[str, str], set[tuple[type, str]]] = {}
        for numbers in self._by_number(attributes, kept).values():
            for item in numbers:
                same = sizes.setdefault((item.module, str(item.before)), set())
                same.add(self._number(item))
        equal = set[tuple[type, str]]().union(
            *(s for s in sizes.values() if len(s) > 1)
        )
        for number in sorted(equal, key=lambda pair: pair[1]):
            self.unmeant.add(number)
            if not self._failure([*base, family], self.training):
                return True
            self.unmeant.discard(number)
        return False

    def _failure(self, families: list[Ids], training: bool) -> str:
        kept, attributes = self.cuts(np.concatenate(families))
        if not kept:
            return ""
        self.trials += 1
        return self.trial.failure(
            lambda trial: cut_model(trial, kept, attributes), training
        )

    def _described(self, families: Sequence[Ids]) -> str:
        """How many channels, and the first tensor that they are in."""
        mine = np.concatenate(families)
        for name, axes in self.coupling.axes.items():
            if any(np.isin(ids, mine).any() for ids in axes.values()):
                return f"{mine.size} channels of {name} and what is coupled with them"
        return f"{mine.size} channels"


def _ambiguous(left: Attribute, changed: Attribute) -> str:
    return (
        f"of {left.name} and {changed.name} of {changed.module}, both {changed.before}, the example does not tell "
        f"which is the size that changes: {changed.name} is {changed.after} now"
    )
