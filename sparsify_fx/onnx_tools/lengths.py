"""Lengths for the open axes of a model's inputs: those given, else sensible ones, in a fixed order of tries."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np

from sparsify_fx.onnx_tools.axis_roles import CHANNELS, FRAMES, TRIES, Roles, Tries
from sparsify_fx.onnx_tools.signature import Asked, Dim, Port, names_of_axes
from sparsify_fx.onnx_tools.uses import BATCH, IMAGE, SEQUENCE, Use

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
    # 1. The ranks: those of the file and of its readers, and where it says none others in turn.
    for rank in (None, 4, 3, 1, 0):
        sized = {
            name: _with_rank(port, uses[name], rank) for name, port in ports.items()
        }
        roles = Roles(sized, uses)
        # 2. Lengths for each role. Guessed ranks get one round each: the tries in all are limited.
        for lengths in _rounds(tries) if rank is None else [_first(tries)]:
            empties = (
                (False, True)
                if any(port.empty for port in ports.values())
                else (False,)
            )
            # 3. Both readings of a 0 in the file, and each name as the sum of the others.
            for total, empty in product(("", *roles.totals()), empties):
                shapes = _shapes(sized, roles, uses, asked, lengths, empty, total)
                if (key := tuple(shapes.items())) not in seen:
                    seen.add(key)
                    yield shapes
        # Nothing left to guess.
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
    # 1. Sizes of images, sequences and frames in step, as models have fixed demands on
    # one of them as a rule. A role that has no more lengths keeps its last one.
    for turn in range(max(map(len, varied.values()))):
        yield first | {
            role: lengths[min(turn, len(lengths) - 1)]
            for role, lengths in varied.items()
        }
    # 2. Other channels, then another batch: models that need these are rare.
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


def _shapes(
    ports: Mapping[str, Port],
    roles: Roles,
    uses: Mapping[str, Use],
    asked: Asked,
    lengths: Mapping[str, int],
    empty: bool,
    total: str,
) -> Shapes:
    """One set of shapes; `total`: the name of an axis that is as long as all other sequences together."""
    # 1. Shapes that are settled as a whole: arrays and shapes that the user gave.
    given = {
        name: tuple(np.shape(value))
        for name, value in asked.inputs.items()
        if isinstance(value, np.ndarray)
    }
    given |= {name: tuple(map(int, shape)) for name, shape in asked.shapes.items()}

    # 2. Named axes: what the user says of them, by name or inside a shape, then what
    # weights fix at any input that has them.
    names: dict[str, int] = dict(asked.axes)
    for known in (given, {name: use.lengths for name, use in uses.items()}):
        for name, sizes in known.items():
            for axis, dim in enumerate(ports[name].dims or () if name in ports else ()):
                length = sizes[axis] if isinstance(sizes, tuple) else sizes.get(axis)
                if isinstance(dim, str) and length is not None:
                    names.setdefault(dim, length)

    # 3. All other names by their roles; `total` is one that the others add up to (past + new).
    atoms = names_of_axes(ports.values())
    simple = {dim: names.get(dim, lengths[role]) for dim, role in roles.named.items()}
    if total and total not in names:
        simple[total] = sum(simple[dim] for dim in roles.totals() if dim != total)

    # 4. Each axis in turn.
    def length_of(port: Port, axis: int, dim: Dim) -> int:
        if isinstance(dim, int):
            return dim
        if axis in port.empty and empty:
            return 0
        if isinstance(dim, str):
            # A formula of other names, unless somebody fixed its value; its own name is no part of it.
            computed = (
                None
                if dim in names
                else computed_length(
                    dim, {name: simple[name] for name in atoms - {dim}}
                )
            )
            return simple[dim] if computed is None or computed < 0 else computed
        # Without a name: what weights fix, else the usual length of its role.
        return uses[port.name].lengths.get(axis, lengths[roles.of(port, axis)])

    found = {}
    for name, port in ports.items():
        if port.form in ("tensor", "sequence"):
            made = tuple(
                length_of(port, axis, dim) for axis, dim in enumerate(port.dims or ())
            )
            found[name] = given.get(name, made)
    return found


# Sums and products, as torch.export names axes that follow from others; anything else is a name.
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
        # Parsed and walked, never evaluated: names of axes come out of a stranger's file.
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
    # Not isinstance: True is an int too.
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    return lengths[node.id if isinstance(node, ast.Name) else ""]
