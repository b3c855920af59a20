"""Sizes that a model's code reads from its modules, and what they are after a cut."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from sparsify_fx.coupling.classes import Mask
from sparsify_fx.coupling.groups import Coupling, value_classes
from sparsify_fx.coupling.rules.base import arguments
from sparsify_fx.coupling.tracks import Resized, Value
from sparsify_fx.shrinking.record import Attribute


def sizes_in_code(
    model: nn.Module, coupling: Coupling, item: Resized, stays: Mask
) -> list[Attribute]:
    """The numbers of a module, and its lists of them, that are equal to a size that changes in this operator."""
    module = _module(model, item.path)
    found: list[Attribute] = []
    if module is None:
        return found
    before, after = (
        _changed_sizes(coupling, value, stays) for value in (item.before, item.after)
    )
    # Of a cut the code says where it begins and ends; what is left of it may be as large by chance.
    after |= _bounds(coupling, item, stays)
    for changes in (before, after, _paddings(coupling, item, stays)):
        for old, new in changes.items():
            if old == new:
                continue
            found += [
                Attribute(item.path, name, old, new)
                for name, number in vars(module).items()
                if type(number) is int and number == old and not name.startswith("_")
            ]
    return found + _lists(module, coupling, item, stays)


def _module(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None  # a function that looked like a module to the tracer


def _changed_sizes(coupling: Coupling, value: Value, stays: Mask) -> dict[int, int]:
    """{size along an axis: how many stay}."""
    found = {}
    classes = value_classes(coupling, value)
    for axis in value.varying:
        left = _left(classes, axis, 0, classes.shape[axis], stays)
        if left < classes.shape[axis]:
            found[classes.shape[axis]] = left
    return found


def _bounds(coupling: Coupling, item: Resized, stays: Mask) -> dict[int, int]:
    """{a bound of a cut: how many stay before it}; of one that counts from the end, how many stay behind it."""
    if not str(item.node.target).startswith("aten.slice."):
        return {}
    given, found = arguments(item.node), {}
    axis = given["dim"] % len(item.before.shape)
    size = item.before.shape[axis]
    if not item.before.varies(axis):
        return {}
    classes = value_classes(coupling, item.before)
    for bound in (given["start"], given["end"]):
        if isinstance(bound, int) and 0 < abs(bound) < size:
            first = 0 if bound > 0 else size + bound
            found[abs(bound)] = _left(classes, axis, first, abs(bound), stays)
    return found


def _paddings(coupling: Coupling, item: Resized, stays: Mask) -> dict[int, int]:
    """{how many channels an operator adds: how many of them stay}."""
    if "pad" not in str(item.node.target):
        return {}
    found = {}
    for axis in item.before.varying:
        sizes, left = list[int](), list[int]()
        for value in (item.before, item.after):
            classes = value_classes(coupling, value)
            sizes.append(classes.shape[axis])
            left.append(_left(classes, axis, 0, classes.shape[axis], stays))
        found[sizes[1] - sizes[0]] = left[1] - left[0]
    return found


def _left(classes: Any, axis: int, start: int, size: int, stays: Mask) -> int:
    """How many slices are left of those from `start` on; whole ones go, so one that is left anywhere is left."""
    moved = np.moveaxis(classes, axis, 0)[start : start + size]
    return int(stays[moved.reshape(len(moved), -1)].any(1).sum())


def _lists(
    module: nn.Module, coupling: Coupling, item: Resized, stays: Mask
) -> list[Attribute]:
    """Lists of the sizes that a tensor is cut into."""
    if "split_with_sizes" not in str(item.node.target):
        return []
    sizes = [int(size) for size in item.node.args[1]]  # type: ignore[union-attr, arg-type]
    axis = int(item.node.args[2]) if len(item.node.args) > 2 else 0  # type: ignore[arg-type]
    axis %= len(item.before.shape)
    if not item.before.varies(axis):
        return []
    classes, start, left = value_classes(coupling, item.before), 0, list[int]()
    for size in sizes:
        left.append(_left(classes, axis, start, size, stays))
        start += size
    return [
        Attribute(item.path, name, numbers, type(numbers)(left))
        for name, numbers in vars(module).items()
        if type(numbers) in (list, tuple) and list(numbers) == sizes
    ]
