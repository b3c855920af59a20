"""How large everything is that rebuilding a weight computes, known before any of it is computed.

A file says of itself which of its values are packed weights. Only the operators that this package writes are run for
them, and only where nothing on the way is larger than what such a file can rightly hold: a few bytes must not take
hours or all memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_tools.view import attribute, subgraphs

Shape = tuple[int, ...]
Ints = NDArray[np.int64]

_ALWAYS = 2**28
"""Entries that any value may have."""

_WIDEST = 2**12
"""More than that only up to so many for each stored entry: the widest step from value to value that has a code."""

_MOST = 2**31
"""More than that no weight has that this package packs."""

KNOWN = 64
"""Entries up to which integers are followed: shapes, sizes and axes are no longer."""


@dataclass(frozen=True)
class Extent:
    """The shape of a value, and the value itself where it is a short vector of integers or a number."""

    shape: Shape
    value: Ints | None = None

    @property
    def entries(self) -> int:
        """How many entries the value has."""
        return math.prod(self.shape)


def extent_of(array: NDArray[np.generic]) -> Extent:
    """The extent of a stored tensor."""
    known = array.size <= KNOWN and array.dtype.kind in "iu"
    return Extent(array.shape, array.astype(np.int64) if known else None)


def check_extent(name: str, found: Extent, stored: int) -> None:
    """ExportError for a value larger than can be rebuilt from `stored` entries."""
    # Up to _ALWAYS entries pass whatever is stored: a weight of zeros alone is stored in
    # a few bytes.
    if found.entries > max(_ALWAYS, min(_MOST, _WIDEST * stored)):
        raise ExportError(
            f"{name}: rebuilding it would compute {found.entries:,} entries from {stored:,} in the file, more than any "
            "packed weight needs; the file is damaged or not what it says"
        )


def extent_after(node: onnx.NodeProto, inputs: Sequence[Extent | None]) -> Extent:
    """The extent of what a node computes; ExportError for operators that no packed weight is rebuilt by.

    >>> extent_after(onnx.helper.make_node("Add", ["a", "b"], ["c"]), [Extent((4, 1)), Extent((3,))]).shape
    (4, 3)
    """
    rule = _RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if rule is None or len(node.output) != 1:
        raise ExportError(
            f"{node.output[0]}: {node.op_type} is no operator that packed weights are rebuilt by"
        )
    try:
        return rule(node, [each for each in inputs if each is not None])
    except (IndexError, ValueError, TypeError, ZeroDivisionError) as error:
        raise ExportError(
            f"{node.output[0]}: the inputs of {node.op_type} do not fit ({error})"
        ) from error


def extents_of_call(
    call: onnx.NodeProto,
    function: onnx.FunctionProto,
    given: Sequence[Extent | None],
    stored: int,
) -> Extent:
    """The extent of what a call of a local function gives, whose body is that of a packed weight."""
    # Inside a function values have local names; the call's inputs are known by position.
    known = {
        name: extent
        for name, extent in zip(function.input, given, strict=False)
        if extent is not None
    }
    attributes = {each.name: each for each in call.attribute}
    for node in function.node:
        # A copy with the attributes that the call gives, such as the kernel of a
        # MaxUnpool.
        bound = onnx.NodeProto()
        bound.CopyFrom(node)
        for each in bound.attribute:
            if each.ref_attr_name in attributes:
                each.CopyFrom(attributes[each.ref_attr_name])
        found = extent_after(
            bound, [known.get(name) if name else None for name in node.input]
        )
        # Each value on the way is checked, not the result alone: a large one in the
        # middle takes the same time and memory.
        check_extent(f"{call.output[0]}: {node.output[0]}", found, stored)
        known[node.output[0]] = found
    if len(function.output) != 1 or function.output[0] not in known:
        raise ExportError(
            f"{call.output[0]}: the function {function.name} rebuilds no weight"
        )
    return known[function.output[0]]


def _same(node: onnx.NodeProto, given: Sequence[Extent]) -> Extent:
    return given[0]


def _shape_alone(node: onnx.NodeProto, given: Sequence[Extent]) -> Extent:
    return Extent(given[0].shape)


def _together(node: onnx.NodeProto, given: Sequence[Extent]) -> Extent:
    shape = np.broadcast_shapes(*(each.shape for each in given))
    return Extent(tuple(int(side) for side in shape))


def _gather(node: onnx.NodeProto, given: Sequence[Extent]) -> Extent:
    data, indices = given
    axis = attribute(node, "axis", 0) % len(data.shape)
    return Extent((*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]))


def _concat(node: onnx.NodeProto, given: Sequence[Extent]) -> Extent:
    axis = attribute(node, "axis", 0)
    first = list(given[0].shape)
    first[axis] = sum(each.shape[axis] for each in given)
    return Extent(tuple(first))


def _reshape(node: onnx.NodeProto, given: Sequence[Extent]) -> Extent:
    data, wanted = given[0], _value(given[1])
    # 0 copies the side of the input, -1 takes what is left, as Reshape has it.
    sides = [
        data.shape[axis] if side == 0 else side for axis, side in enumerate(wanted)
    ]
    if -1 in sides:
        rest = math.prod(side for side in sides if side != -1)
        sides[sides.index(-1)] = data.entries // rest if rest else 0
    if math.prod(sides) != data.entries or min(sides, default=0) < 0:
        raise ValueError(f"{list(data.shape)} cannot become {wanted}")
    return Extent(
        tuple(sides), None if data.value is None else data.value.reshape(sides)
    )


def _filled(node: onnx.NodeProto, given: Sequence[Extent]) -> Extent:
    shape = _value(given[0])
    if min(shape, default=0) < 0:
        raise ValueError(f"no tensor has shape {shape}")
    return Extent(tuple(shape))


def _expand(node: onnx.NodeProto, given: Sequence[Extent]) -> Extent:
    shape = np.broadcast_shapes(given[0].shape, tuple(_value(given[1])))
    return Extent(tuple(int(side) for side in shape))


def _squeeze(node: onnx.NodeProto, given: Sequence[Extent]) -> Extent:
    value = given[0].value
    return Extent(
        tuple(side for side in given[0].shape if side != 1),
        None if value is None else value.squeeze(),
    )


def _range(node: onnx.NodeProto, given: Sequence[Extent]) -> Extent:
    start, end, step = (int(np.asarray(_known(each)).item()) for each in given)
    return Extent((max(0, math.ceil((end - start) / step)),))


def _unpooled(node: onnx.NodeProto, given: Sequence[Extent]) -> Extent:
    shape, kernel = given[0].shape, attribute(node, "kernel_shape")
    steps = attribute(node, "strides", [1] * len(kernel))
    # ONNX allows an output shape as a third input, and pads; this package writes neither,
    # and each would change the size.
    if (
        len(given) > 2
        or any(attribute(node, "pads", []))
        or len(kernel) != len(shape) - 2
        or min(kernel) < 1
    ):
        raise ValueError("such an unpooling rebuilds no weight")
    sides = [
        (side - 1) * step + wide
        for side, step, wide in zip(shape[2:], steps, kernel, strict=True)
    ]
    return Extent((*shape[:2], *sides))


def _slice(node: onnx.NodeProto, given: Sequence[Extent]) -> Extent:
    """A part of a vector."""
    data, (start,), (end,) = given[0], _value(given[1]), _value(given[2])
    (length,) = data.shape
    return Extent((len(range(length)[start:end]),))


def _scan(node: onnx.NodeProto, given: Sequence[Extent]) -> Extent:
    """Only the Scan that passes on what it is given, slice by slice."""
    body = next(subgraphs(node))
    # Rounds write this form and no other; a body of its own could compute anything, any
    # number of times.
    plain = len(body.node) == len(body.input) == len(body.output) == len(given) == 1
    if (
        not plain
        or body.node[0].op_type != "Identity"
        or attribute(node, "num_scan_inputs") != 1
    ):
        raise ValueError("its body is not a single Identity")
    return given[0]


def _shape(node: onnx.NodeProto, given: Sequence[Extent]) -> Extent:
    return Extent((len(given[0].shape),), np.array(given[0].shape, np.int64))


def _known(extent: Extent) -> Ints:
    if extent.value is None:
        raise ValueError("a shape or a size is not a short constant")
    return extent.value


def _value(extent: Extent) -> list[int]:
    found: list[int] = _known(extent).reshape(-1).tolist()
    return found


_RULES: Mapping[str, Callable[[onnx.NodeProto, Sequence[Extent]], Extent]] = {
    **dict.fromkeys(("Abs", "Cast", "Identity"), _same),
    **dict.fromkeys(("CumSum", "ScatterElements"), _shape_alone),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Mod"), _together),
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Expand": _expand,
    "Gather": _gather,
    "MaxUnpool": _unpooled,
    "Range": _range,
    "Reshape": _reshape,
    "Scan": _scan,
    "Shape": _shape,
    "Slice": _slice,
    "Squeeze": _squeeze,
}
