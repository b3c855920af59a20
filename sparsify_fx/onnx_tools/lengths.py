"""Lengths for the open axes of a model's inputs: those given, else sensible ones, in a fixed order of tries."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np
from onnx import TensorProto

from sparsify_fx.onnx_tools.signature import Asked, Dim, Port
from sparsify_fx.onnx_tools.uses import BATCH, IMAGE, SEQUENCE, Use

FRAMES, CHANNELS = "frames", "channels"

TRIES: dict[str, tuple[int, ...]] = {
    BATCH: (1, 2),
    SEQUENCE: (128, 32, 64, 640, 512, 256, 16, 1, 2, 3, 16000),
    FRAMES: (16, 8, 32, 4, 1),
    IMAGE: (224, 32, 64, 640, 256, 384, 512),
    CHANNELS: (3, 1, 4),
}
"""What is tried for open axes of each role, in this order; of two equally likely roles the first one is taken."""

SMALL_TRIES = TRIES | {
    BATCH: (2, 1),
    IMAGE: (32, 64, 224, 640, 256),
    SEQUENCE: (32, 16, 128, 64, 512, 2, 1, 3, 16000),
}
"""The same for a proof: small ones first, and more than one sample, which may be told apart."""

Tries = Mapping[str, tuple[int, ...]]

_ORDER = tuple(TRIES)
_PIXELS = {
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.DOUBLE,
    TensorProto.BFLOAT16,
    TensorProto.UINT8,
}
_FLOATS = _PIXELS - {TensorProto.UINT8}

Shapes = dict[str, tuple[int, ...]]


def shapes_to_try(
    ports: Mapping[str, Port],
    uses: Mapping[str, Use],
    asked: Asked,
    tries: Tries = TRIES,
) -> Iterator[Shapes]:
    """The shapes of all tensors and sequences of tensors, one set after another, none twice.

    Axes of one name have one length, also where it is part of a sum like `past + new`, and where there are three, each
    is tried as the sum of the others. A length of 0 in the file is
    tried as an open axis first, and as 0 then.
    """
    seen: set[tuple[tuple[str, tuple[int, ...]], ...]] = set()
    for rank in (None, 4, 3, 1, 0):
        sized = {
            name: _with_rank(port, uses[name], rank) for name, port in ports.items()
        }
        roles = _Roles(sized, uses)
        for lengths in _rounds(tries) if rank is None else [_first(tries)]:
            empties = (
                (False, True)
                if any(port.empty for port in ports.values())
                else (False,)
            )
            for total, empty in product(("", *roles.totals()), empties):
                shapes = _shapes(sized, roles, uses, asked, lengths, empty, total)
                if (key := tuple(shapes.items())) not in seen:
                    seen.add(key)
                    yield shapes
        if all(port.dims is not None for port in ports.values()):
            return


def _first(tries: Tries) -> dict[str, int]:
    return {role: lengths[0] for role, lengths in tries.items()}


def _rounds(tries: Tries) -> Iterator[dict[str, int]]:
    """A length for each role, the likeliest first."""
    first, varied = (
        _first(tries),
        {role: tries[role] for role in (IMAGE, SEQUENCE, FRAMES)},
    )
    for turn in range(max(map(len, varied.values()))):
        yield first | {
            role: lengths[min(turn, len(lengths) - 1)]
            for role, lengths in varied.items()
        }
    for channels in tries[CHANNELS][1:]:
        yield first | {CHANNELS: channels}
    for turn in range(2):
        yield (
            first
            | {BATCH: tries[BATCH][1]}
            | {role: lengths[turn] for role, lengths in varied.items()}
        )


def _with_rank(port: Port, use: Use, rank: int | None) -> Port:
    """A port of which the file does not say the rank gets the one that its reader needs, or this one."""
    if port.dims is not None or port.form not in ("tensor", "sequence"):
        return port
    count = (2 if use.rank is None else use.rank) if rank is None else rank
    return Port(
        port.name, port.form, port.elem, (None,) * count, port.optional, port.key
    )


class _Roles:
    """The role of each open axis: by what reads it, else by its place; all axes of one name have one role."""

    def __init__(self, ports: Mapping[str, Port], uses: Mapping[str, Use]) -> None:
        deep = any(len(port.dims or ()) > 1 for port in ports.values())
        self.found: dict[
            tuple[str, int], tuple[int, int]
        ] = {}  # how uncertain it is, and the place in _ORDER
        named: dict[str, tuple[int, int]] = {}
        for name, port in ports.items():
            for axis, dim in enumerate(port.dims or ()):
                self.found[name, axis] = best = _role(port, axis, uses[name], deep)
                if isinstance(dim, str):
                    named[dim] = min(best, named.get(dim, best))
        self.named = {dim: _ORDER[place] for dim, (_, place) in named.items()}

    def totals(self) -> list[str]:
        """Three names of sequences, of which one may be the sum of the others (past, new and all tokens); else none."""
        found = [
            dim
            for dim, role in self.named.items()
            if role == SEQUENCE and dim.isidentifier()
        ]
        return found if len(found) == 3 else []

    def of(self, port: Port, axis: int) -> str:
        dim = (port.dims or ())[axis]
        return (
            self.named[dim]
            if isinstance(dim, str)
            else _ORDER[self.found[port.name, axis][1]]
        )


def _role(port: Port, axis: int, use: Use, deep: bool) -> tuple[int, int]:
    """(0: known from a reader, 1: from the shape, 2: a guess; the role's place in _ORDER)."""
    dims, images = port.dims or (), _image_axes(port)
    rank = len(dims)
    if axis in use.roles and not (use.roles[axis] == SEQUENCE and axis in images):
        return 0, _ORDER.index(use.roles[axis])
    if axis in images:
        return 1, _ORDER.index(images[axis])
    if rank == 1:
        role = SEQUENCE if port.elem in _FLOATS and not deep else BATCH
        return 2, _ORDER.index(role)
    if (
        axis == 1
        and rank == 3
        and isinstance(dims[0], int)
        and dims[0] > 1
        and isinstance(dims[2], int)
    ):
        return 2, _ORDER.index(
            BATCH
        )  # the state of recurrent layers: [layers, batch, hidden]
    return 1, _ORDER.index(BATCH if axis == 0 else SEQUENCE)


def _image_axes(port: Port) -> dict[int, str]:
    """The roles of the axes of what looks like an image or a video, batched or not, channels first or last."""
    dims = port.dims or ()
    if port.elem not in _PIXELS or not 3 <= len(dims) <= 5 or port.form != "tensor":
        return {}
    rest = range(len(dims) - 3, len(dims))
    if len(dims) == 5 and dims[1] in (1, 3, 4):  # channels before the frames
        return {2: FRAMES, 3: IMAGE, 4: IMAGE}
    for channels in (rest[0], rest[2]):
        height, width = [axis for axis in rest if axis != channels]
        half = _fixed(dims[height]) or _fixed(dims[width])
        if dims[channels] in ((1, 3) if half else (1, 3, 4)) and not (
            half and len(dims) == 3
        ):
            return ({1: FRAMES} if len(dims) == 5 else {}) | {
                height: IMAGE,
                width: IMAGE,
            }
    if len(dims) == 4 and not any(map(_fixed, dims[1:])):
        return {1: CHANNELS, 2: IMAGE, 3: IMAGE}
    return {}


def _fixed(dim: Dim) -> bool:
    return isinstance(dim, int)


def _shapes(
    ports: Mapping[str, Port],
    roles: _Roles,
    uses: Mapping[str, Use],
    asked: Asked,
    lengths: Mapping[str, int],
    empty: bool,
    total: str,
) -> Shapes:
    """One set of shapes; `total`: the name of an axis that is as long as all other sequences together."""
    given = {
        name: tuple(np.shape(value))
        for name, value in asked.inputs.items()
        if isinstance(value, np.ndarray)
    }
    given |= {name: tuple(map(int, shape)) for name, shape in asked.shapes.items()}
    names: dict[str, int] = dict(asked.axes)
    for known in (given, {name: use.lengths for name, use in uses.items()}):
        for name, sizes in known.items():
            for axis, dim in enumerate(ports[name].dims or () if name in ports else ()):
                length = sizes[axis] if isinstance(sizes, tuple) else sizes.get(axis)
                if isinstance(dim, str) and length is not None:
                    names.setdefault(dim, length)
    atoms = {
        dim
        for port in ports.values()
        for dim in port.dims or ()
        if isinstance(dim, str)
    }
    simple = {dim: names.get(dim, lengths[role]) for dim, role in roles.named.items()}
    if total and total not in names:
        simple[total] = sum(simple[dim] for dim in roles.totals() if dim != total)

    def length_of(port: Port, axis: int, dim: Dim) -> int:
        if isinstance(dim, int):
            return dim
        if axis in port.empty and empty:
            return 0
        if isinstance(dim, str):
            computed = (
                None
                if dim in names
                else computed_length(
                    dim, {name: simple[name] for name in atoms - {dim}}
                )
            )
            return simple[dim] if computed is None or computed < 0 else computed
        return uses[port.name].lengths.get(axis, lengths[roles.of(port, axis)])

    found = {}
    for name, port in ports.items():
        if port.form in ("tensor", "sequence"):
            made = tuple(
                length_of(port, axis, dim) for axis, dim in enumerate(port.dims or ())
            )
            found[name] = given.get(name, made)
    return found


_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def computed_length(text: str, lengths: Mapping[str, int]) -> int | None:
    """The length of an axis whose name is a formula of other axes; None when it is none.

    >>> computed_length("past_length + 2*s0", {"past_length": 10, "s0": 3})
    16
    >>> computed_length("batch-size", {"batch": 1}) is None
    True
    """
    try:
        return _value(ast.parse(text.strip(), mode="eval").body, lengths)
    except (
        SyntaxError,
        ValueError,
        KeyError,
        ZeroDivisionError,
        RecursionError,
        MemoryError,
    ):
        return None


def _value(node: ast.AST, lengths: Mapping[str, int]) -> int:
    """The value of a part of a formula; KeyError for whatever is none."""
    if isinstance(node, ast.BinOp):
        return int(
            _OPERATORS[type(node.op)](
                _value(node.left, lengths), _value(node.right, lengths)
            )
        )
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    return lengths[node.id if isinstance(node, ast.Name) else ""]
