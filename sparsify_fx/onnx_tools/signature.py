"""The inputs of an ONNX model as its file describes them, and what a user fixes of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from sparsify_fx.errors import InputError, unknown

Dim = int | str | None
"""A length, the name of an open axis, or None for an open axis without a name."""


@dataclass(frozen=True)
class Port:
    """An input that a caller must give.

    `form`: tensor, sequence (of tensors), map, or sparse tensor; `elem`: type of the entries, of a map its values;
    `dims`: None where the file says nothing of them; `empty`: open axes for which the file says 0, which some
    runtimes take for a length.
    """

    name: str
    form: str
    elem: int
    dims: tuple[Dim, ...] | None
    optional: bool = False
    key: int = 0
    empty: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Asked:
    """What the user fixes: values, shapes, and lengths of named axes; the rest is made up.

    >>> Asked(shapes={"images": (1, 3, 320, 320)}, axes={"batch": 1})
    Asked(inputs={}, shapes={'images': (1, 3, 320, 320)}, axes={'batch': 1})
    """

    inputs: Mapping[str, Any] = field(default_factory=dict)
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    axes: Mapping[str, int] = field(default_factory=dict)


def ports_of(model: onnx.ModelProto) -> dict[str, Port]:
    """The inputs without a default, by name."""
    # An input with an initializer of its name has a default, so callers need not give it.
    stored = {tensor.name for tensor in model.graph.initializer}
    stored |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    return {
        item.name: _port(item.name, item.type)
        for item in model.graph.input
        if item.name not in stored
    }


def is_open(model: onnx.ModelProto) -> bool:
    """Whether the file leaves a length of an input open."""
    return any(
        port.dims is None or not all(isinstance(n, int) for n in port.dims)
        for port in ports_of(model).values()
    )


def settles(ports: Mapping[str, Port], asked: Asked) -> bool:
    """Whether what is asked for fixes every length that the file leaves open, named axes by any input that has them."""
    # An input that is given whole fixes the names of its axes for all others that have them.
    whole = {**asked.inputs, **asked.shapes}
    names = names_of_axes(ports[name] for name in whole if name in ports)
    names |= asked.axes.keys()
    left = (port for name, port in ports.items() if name not in whole)
    return all(
        port.dims is not None
        and all(isinstance(dim, int) or dim in names for dim in port.dims)
        for port in left
    )


def axis_names(model: onnx.ModelProto) -> set[str]:
    """The names of the open axes of inputs."""
    return names_of_axes(ports_of(model).values())


def names_of_axes(ports: Iterable[Port]) -> set[str]:
    """The names of the open axes of these inputs; axes without a name have none."""
    found: set[str] = set()
    for port in ports:
        found.update(dim for dim in port.dims or () if isinstance(dim, str))
    return found


def _port(name: str, kind: onnx.TypeProto, optional: bool = False) -> Port:
    form = kind.WhichOneof("value")
    # optional(sequence(tensor)) and the like: each layer is taken off in turn.
    if form == "optional_type":
        return _port(name, kind.optional_type.elem_type, optional=True)
    if form == "sequence_type":
        # Only sequences of tensors can be made up; others keep their kind in words, for the error.
        inner = _port(name, kind.sequence_type.elem_type)
        return Port(name, "sequence" if inner.form == "tensor" else f"sequence of a {inner.form}", inner.elem,
                    inner.dims, optional, inner.key)  # fmt: skip
    if form == "map_type":
        values = _port(name, kind.map_type.value_type)
        return Port(name, "map", values.elem, (), optional, kind.map_type.key_type)
    if form != "tensor_type":
        return Port(
            name,
            "sparse tensor" if form == "sparse_tensor_type" else "value of no type",
            0,
            None,
            optional,
        )
    held = kind.tensor_type
    # No shape at all (any rank) is something else than a shape without axes (a scalar).
    dims = held.shape.dim if held.HasField("shape") else None
    # 0 is how several exporters write an open axis, although a tensor may be empty: it
    # is taken for open, and remembered.
    empty = {
        axis
        for axis, dim in enumerate(dims or ())
        if dim.HasField("dim_value") and dim.dim_value == 0
    }
    sizes = (
        None
        if dims is None
        else tuple(
            dim.dim_param or (dim.dim_value if dim.dim_value > 0 else None)
            for dim in dims
        )
    )
    return Port(name, "tensor", held.elem_type, sizes, optional, 0, frozenset(empty))


def check_asked(model: onnx.ModelProto, asked: Asked) -> None:
    """InputError or UnknownNameError for names that the model lacks, and for lengths and types that contradict it."""
    given = {"inputs": asked.inputs, "input_shapes": asked.shapes, "axes": asked.axes}
    for what, held in given.items():
        if not isinstance(held, Mapping):
            raise InputError(
                f"{what}: expected a dict by name, got {type(held).__name__}"
            )
    ports, names = ports_of(model), axis_names(model)
    # Inputs with a default may be given too, so values are checked against all inputs.
    every = {item.name: _port(item.name, item.type) for item in model.graph.input}
    for name in asked.inputs:
        if name not in every:
            raise unknown("input", name, every)
        _check_value(every[name], asked.inputs[name])
    for name in asked.shapes:
        if name not in ports:
            raise unknown("input", name, ports)
        _check_shape(ports[name], asked.shapes[name], asked)
    for name, length in asked.axes.items():
        if name not in names:
            raise unknown("axis", name, names)
        _check_length(length, f"axis {name!r}")


def _check_length(length: object, what: str) -> None:
    # True is an int, and would be taken for a length of 1.
    if (
        isinstance(length, bool)
        or not isinstance(length, int | np.integer)
        or length < 1
    ):
        raise InputError(f"{what}: expected a length of 1 or more, got {length!r}")


def _check_shape(port: Port, shape: Sequence[int], asked: Asked) -> None:
    """A shape that the user gives against the file, against the array given, and against the named axes given."""
    if port.form != "tensor":
        raise InputError(
            f"input {port.name!r} is a {port.form} and has no shape to give; give it with inputs= instead"
        )
    if not isinstance(shape, Iterable):
        raise InputError(
            f"shape of input {port.name!r}: expected a list of lengths, got {type(shape).__name__}"
        )
    for axis, length in enumerate(shape):
        _check_length(length, f"shape of input {port.name!r}, axis {axis}")
    # 1. Against the file.
    _fits(port, tuple(shape))
    # 2. Against named axes that are given too. A port of unknown rank has no names to compare.
    for dim, length in zip(port.dims or (), shape, strict=bool(port.dims)):
        if isinstance(dim, str) and asked.axes.get(dim, length) != length:
            raise InputError(
                f"axis {dim!r} is given as {asked.axes[dim]}, but the shape given for input {port.name!r} makes it "
                f"{length}; give one of them"
            )
    # 3. Against the array, if both are given.
    held = asked.inputs.get(port.name)
    if held is not None and np.shape(held) != tuple(shape):
        raise InputError(
            f"input {port.name!r} is given as an array {list(np.shape(held))} and as {list(shape)}; give one"
        )


def _fits(port: Port, shape: Sequence[int]) -> None:
    """The shape against what the file says."""
    if port.dims is None:
        return
    fixed = [(axis, dim) for axis, dim in enumerate(port.dims) if isinstance(dim, int)]
    if len(shape) != len(port.dims) or any(shape[axis] != dim for axis, dim in fixed):
        raise InputError(
            f"input {port.name!r} has the shape {describe(port.dims)} in the file, which {list(shape)} does not fit; "
            "give what the file leaves open"
        )


def describe(dims: Sequence[Dim] | None) -> str:
    """A shape in words: open axes by their names, or ? for those without.

    >>> describe(("batch", 3, None))
    '[batch, 3, ?]'
    """
    return (
        "of any rank"
        if dims is None
        else f"[{', '.join('?' if dim is None else str(dim) for dim in dims)}]"
    )


def _check_value(port: Port, value: Any) -> None:
    """A value that the user gives against the type in the file."""
    if value is None and not port.optional:
        raise InputError(
            f"input {port.name!r} is no optional one: give a {port.form}, not None"
        )
    if value is None or port.form not in ("tensor", "sequence"):
        return
    if isinstance(value, list) != (port.form == "sequence"):
        raise InputError(
            f"input {port.name!r} is a {port.form}; expected {_EXPECTED[port.form]}, got {type(value).__name__}"
        )
    for array in value if port.form == "sequence" else [value]:
        _check_array(port, np.asarray(array))


_EXPECTED = {"tensor": "a numpy array", "sequence": "a list of numpy arrays"}


def _check_array(port: Port, array: Any) -> None:
    # Strings come in several kinds of arrays; numbers must have the very type, as
    # onnxruntime converts nothing.
    text = port.elem == TensorProto.STRING
    wanted = None if text else np.dtype(helper.tensor_dtype_to_np_dtype(port.elem))
    if (array.dtype.kind not in "OUST") if text else (array.dtype != wanted):
        raise InputError(
            f"input {port.name!r} holds {'strings' if text else wanted} in the file, not {array.dtype}; "
            "convert the array"
        )
    _fits(port, array.shape)
