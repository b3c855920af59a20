"""The ids of every entry of every value of a traced model.

The ids of a value are a tensor of its rank that broadcasts over its shape: [1, C, 1, 1] for an image whose channels
differ. So the operators that move entries (reshapes, permutations, cuts, concatenations) are simply run on the ids.
Id 0 is that of all entries that must stay: inputs of the model, constants, results of what is not understood.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from sparsify_fx.coupling.classes import Classes, Ids, Mask

# Larger tensors get no ids entry by entry: those of a table of words alone would fill the memory.
_LARGEST = 1 << 17


@dataclass(frozen=True)
class Value:
    """The ids of a tensor of this shape; along an axis where they do not differ `ids` has size 1."""

    ids: Tensor
    shape: tuple[int, ...]

    @property
    def varying(self) -> tuple[int, ...]:
        """The axes along which the ids differ."""
        return tuple(axis for axis, size in enumerate(self.ids.shape) if size > 1)

    def varies(self, axis: int) -> bool:
        """Whether the ids differ along this axis."""
        return self.ids.shape[axis] > 1

    def full(self) -> Tensor:
        """The id of every entry."""
        return self.ids.expand(self.shape)

    def along(self, axis: int) -> Tensor:
        """[size of the axis]: the ids along the only axis on which they differ."""
        return self.full().movedim(axis, 0).reshape(self.shape[axis], -1)[:, 0]


def staying(shape: tuple[int, ...]) -> Value:
    """A value whose entries all stay."""
    return Value(torch.zeros([1] * len(shape), dtype=torch.int64), shape)


def compressed(ids: Tensor) -> Value:
    """The value with the id of every entry, stored once along axes on which they are equal."""
    small = ids
    for axis in range(ids.ndim):
        first = small.narrow(axis, 0, min(1, small.shape[axis]))
        if small.shape[axis] > 1 and bool((small == first).all()):
            small = first
    return Value(small, tuple(ids.shape))


@dataclass(frozen=True)
class Reading:
    """A layer that mixes channels: output o reads input c where its weight [o, c, ...] is not zero."""

    weight: str
    inputs: Ids
    outputs: Ids
    transposed: bool = False


@dataclass(frozen=True)
class Resized:
    """An operator whose result has other axes than what it was given, such as a reshape, and the module it is in."""

    node: fx.Node
    before: Value
    after: Value
    prefix: str = ""

    @property
    def path(self) -> str:
        """The path of the module whose code holds it."""
        return f"{self.prefix}{self._place()[0]}".removesuffix(".")

    @property
    def kind(self) -> str:
        """The class of that module, with its package."""
        return self._place()[1]

    def _place(self) -> tuple[str, str]:
        stack = self.node.meta.get("nn_module_stack") or {}
        places = [(str(path), str(kind)) for path, kind, *_ in stack.values()]
        return places[-1] if places else ("", "?")


def first_classes() -> Classes:
    """Classes whose id 0 is that of all that stays."""
    classes = Classes()
    classes.pin(classes.fresh(1))
    return classes


@dataclass
class Tracks:
    """What is known so far of a traced model.

    Attributes:
        tensors: the qualified name of the parameter or buffer that a node stands for.
        constants: the values of nodes that are constants, for operators that need them (tables of indices).
        uses: the ids of parameters and buffers, one value for each use.
        unknown: targets of operators that were not understood, with channels passing through them.
        bare: norms without vectors, whose width only a number of their module tells.
        heads: ids of heads of attention.
        made: ids of channels that layers make. Others, such as the places of a table of positions, never go.
        names: the first name of the tensor that each name stands for; tied ones have several.
        prefix: of the names of what was traced within the model, with its dot.
    """

    tensors: dict[str, str]
    constants: dict[str, Tensor]
    classes: Classes = field(default_factory=first_classes)
    values: dict[str, Any] = field(default_factory=dict)
    uses: dict[str, list[dict[int, Ids] | Value]] = field(default_factory=dict)
    readings: list[Reading] = field(default_factory=list)
    resized: list[Resized] = field(default_factory=list)
    bare: list[Resized] = field(default_factory=list)
    unknown: dict[str, int] = field(default_factory=dict)
    heads: list[Tensor] = field(default_factory=list)
    made: list[Tensor] = field(default_factory=list)
    names: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""

    def name_of(self, name: str) -> str:
        """The name in the whole model of a tensor of the traced part."""
        full = f"{self.prefix}{name}"
        return self.names.get(full, full)

    def fresh(self, size: int) -> Tensor:
        """[size] ids that nothing has yet."""
        return torch.from_numpy(self.classes.fresh(size))

    def channels(self, size: int) -> Tensor:
        """[size] fresh ids for the channels that a layer makes."""
        found = self.fresh(size)
        self.made.append(found)
        return found

    def resolved(self) -> tuple[Ids, Mask]:
        """(the class of every id, 0 for all that stays; whether each class stays): classes that no layer makes do."""
        classes, stays = self.classes.resolve()
        made = np.zeros_like(stays)
        for ids in self.made:
            made[classes[ids.numpy()]] = True
        stays |= ~made
        return np.where(stays[classes], 0, classes), stays

    def join(self, first: Tensor, second: Tensor) -> None:
        """Entries of equal place, after broadcasting, stand and fall together."""
        shape = np.broadcast_shapes(tuple(first.shape), tuple(second.shape))
        pairs = torch.stack([first.expand(shape), second.expand(shape)]).reshape(2, -1)
        pairs = torch.unique(pairs[:, pairs[0] != pairs[1]], dim=1)
        if pairs.numel():
            self.classes.join(pairs[0].numpy(), pairs[1].numpy())

    def unify(self, value: Value, axes: tuple[int, ...]) -> Value:
        """Join along these axes, and so give them one id."""
        ids = value.ids
        for axis in axes:
            first = ids.narrow(axis, 0, 1)
            if ids.shape[axis] > 1:
                self.join(ids, first)
            ids = first
        return Value(ids, value.shape)

    def within(self, value: Value, axes: Iterable[int]) -> Value | None:
        """`value` with one id along these axes, where the others tell channels apart too; else None."""
        mine = tuple(axis for axis in axes if value.varies(axis))
        if not mine:
            return value
        return None if set(mine) == set(value.varying) else self.unify(value, mine)

    def pin(self, value: Value | Tensor) -> None:
        """All of these entries stay."""
        ids = value.ids if isinstance(value, Value) else value
        self.classes.pin(torch.unique(ids).numpy())

    def use(self, node: fx.Node, axes: dict[int, Tensor]) -> None:
        """A layer slices a parameter or buffer along these axes, by these ids."""
        self.uses.setdefault(self.tensors[node.name], []).append(
            {axis: ids.numpy() for axis, ids in axes.items()}
        )

    def is_raw(self, arg: Any) -> bool:
        """Whether this is a parameter or buffer itself, not something computed."""
        return isinstance(arg, fx.Node) and arg.name in self.tensors

    def value(self, arg: Any) -> Value:
        """The ids of a node's tensor; a parameter's entries get ids of their own."""
        found = self.values.get(arg.name)
        if isinstance(found, Value):
            return found
        shape = tuple(arg.meta["val"].shape)
        if not self.is_raw(arg):
            return staying(shape)
        size = arg.meta["val"].numel()
        # One number has no channels, and a large table none that could be followed.
        made = staying(shape)
        if 1 < size <= _LARGEST:
            made = Value(self.fresh(size).reshape(shape), shape)
        self.uses.setdefault(self.tensors[arg.name], []).append(made)
        # Whoever reads it again reads the same entries.
        self.values[arg.name] = made
        return made
