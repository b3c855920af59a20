"""Inputs for an ONNX model of which nothing but its file is known, and the first of them that it takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from sparsify_fx.errors import InputError
from sparsify_fx.onnx_tools.axis_roles import TRIES, Tries
from sparsify_fx.onnx_tools.lengths import Shapes, shapes_to_try
from sparsify_fx.onnx_tools.signature import Asked, Port, check_asked, ports_of
from sparsify_fx.onnx_tools.uses import Use, uses_of

Feed = dict[str, Any]

MIXED = "mixed"
FILLS = ("ones", "zeros", MIXED)
"""What integers and truth values whose use is not known are: masks want ones, flags and offsets may want zeros."""

_MOST_TRIES = 48
_MOST_ENTRIES = 2**27
_WORDS = ("one", "small", "plain", "word", "after", "another")
_INTEGERS = {TensorProto.INT32, TensorProto.INT64}
_FLOATS = {
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.DOUBLE,
    TensorProto.BFLOAT16,
}


def feeds(
    model: onnx.ModelProto,
    asked: Asked | None = None,
    seed: int = 0,
    fills: tuple[str, ...] = FILLS,
    tries: Tries = TRIES,
) -> Iterator[Feed]:
    """Inputs to try, in order: what is asked for, and made-up values of the likeliest sizes.

    Floats are standard normal, pixels in bytes anything, indices below the length of their table, lengths those of the
    sequences beside them, strings words; optional inputs are there, but for `zeros`. Axes of one name have one length.

    Raises InputError or UnknownNameError for `asked` that contradicts the model, and InputError for inputs of kinds or
    sizes that cannot be made up.

    >>> x = onnx.helper.make_tensor_value_info("x", 1, ["batch", 3, "height", "width"])
    >>> model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [x], []))
    >>> next(feeds(model))["x"].shape
    (1, 3, 224, 224)
    """
    asked = asked or Asked()
    check_asked(model, asked)
    ports = ports_of(model)
    # Before anything is made: an input that cannot be made up fails for all sizes.
    for port in ports.values():
        if port.name not in asked.inputs:
            _check_can_be_made(port)
    # The tries are limited, as each is a run of the model, which may take minutes.
    maker = _Maker(ports, uses_of(model), asked, fills, tries)
    return islice(maker.feeds(seed), _MOST_TRIES)


def _check_can_be_made(port: Port) -> None:
    # onnx adds element types with every version; what this one knows can be made.
    types = {*helper.get_all_tensor_dtypes()} - {TensorProto.UNDEFINED}
    can_be_made = port.form in ("tensor", "sequence", "map")
    if not can_be_made or port.elem not in types:
        what = f"{port.form} of an unknown type" if can_be_made else port.form
        raise InputError(
            f"input {port.name!r} is a {what}, which cannot be made up; give it (inputs=)"
        )


@dataclass(frozen=True)
class _Maker:
    """What is known of the inputs that are to be made up."""

    ports: Mapping[str, Port]
    uses: Mapping[str, Use]
    asked: Asked
    fills: tuple[str, ...]
    tries: Tries

    def feeds(self, seed: int) -> Iterator[Feed]:
        """Every set of shapes with every filling; sets that are too large are passed over while others are left."""
        made = [
            port for name, port in self.ports.items() if name not in self.asked.inputs
        ]
        # Without optional inputs and integers of unknown use all fillings are the same feed.
        fills = self.fills if any(map(self._has_choice, made)) else self.fills[:1]
        passed_over, tried = "", False
        for shapes in shapes_to_try(self.ports, self.uses, self.asked, self.tries):
            # Larger ones would fill the memory before onnxruntime could refuse them.
            # Given arrays exist already, so they are not counted.
            large = [
                port.name
                for port in made
                if math.prod(shapes.get(port.name, ())) > _MOST_ENTRIES
            ]
            if large:
                passed_over = (
                    passed_over
                    or f"input {large[0]!r} of shape {list(shapes[large[0]])}"
                )
                continue
            # The seed is the same for every try: a feed depends on its shapes and
            # filling alone, not on how many tries there were before.
            for fill in fills:
                tried = True
                yield self._feed(shapes, np.random.default_rng(seed), fill)
        if not tried:
            raise InputError(
                f"{passed_over} is too large to be made up; give it (inputs=), or smaller shapes"
            )

    def _has_choice(self, port: Port) -> bool:
        """Whether it matters which filling is taken."""
        numbers = (
            port.elem not in (*_FLOATS, TensorProto.STRING)
            and self.uses[port.name].below is None
        )
        return port.optional or (
            numbers and port.form != "map" and not _is_pixels(port)
        )

    def _feed(self, shapes: Shapes, rng: np.random.Generator, fill: str) -> Feed:
        feed: Feed = dict(self.asked.inputs)
        for name, port in self.ports.items():
            if name not in feed:
                try:
                    feed[name] = self._value(port, shapes, rng, fill)
                except MemoryError as error:
                    raise InputError(
                        f"there is no memory to make up input {name!r}; give it (inputs=)"
                    ) from error
        return feed

    def _value(
        self, port: Port, shapes: Shapes, rng: np.random.Generator, fill: str
    ) -> Any:
        # Both kinds of calls are tried: with the optional input and without.
        if port.optional and fill == "zeros":
            return None
        if port.form == "map":
            return _map(port)
        use, shape = self.uses[port.name], shapes[port.name]
        if port.form == "sequence":
            # Two entries, as models that concatenate or stack a sequence show nothing with one.
            return [_array(port, shape, use, rng, fill) for _ in range(2)]
        length = self._length_beside(port, shapes)
        array = _array(port, shape, use, rng, fill)
        return array if length is None else np.full_like(array, length)

    def _length_beside(self, port: Port, shapes: Shapes) -> int | None:
        """What a vector of integers, one for each sequence of a batch beside it, holds; None when it is no such vector.

        Sequences have two or three axes: the batch, which has the name of the vector's axis or both have none, and
        another one that the file leaves open.
        """
        dims, use = port.dims or (), self.uses[port.name]
        if (
            len(dims) != 1
            or isinstance(dims[0], int)
            or use.below is not None
            or port.elem not in _INTEGERS
        ):
            return None
        for other in self.ports.values():
            sizes = other.dims or ()
            if (
                other.name == port.name
                or other.form != "tensor"
                or not 2 <= len(sizes) <= 3
                or dims[0] not in sizes
            ):
                continue
            # The axis of the batch has the name that the vector's axis has, or none as well.
            batch = sizes.index(dims[0])
            steps = [
                axis
                for axis, size in enumerate(sizes)
                if not isinstance(size, int) and axis != batch
            ]
            if steps:
                return shapes[other.name][steps[0]]
        return None


def _is_pixels(port: Port) -> bool:
    return (
        port.elem in (TensorProto.UINT8, TensorProto.INT8) and len(port.dims or ()) > 2
    )


def _array(
    port: Port, shape: tuple[int, ...], use: Use, rng: np.random.Generator, fill: str
) -> NDArray[Any]:
    """An array of the port's type: noise, indices below the table's length, pixels, or the filling."""
    if port.elem == TensorProto.STRING:
        return rng.choice(np.array(_WORDS, object), shape)
    dtype = helper.tensor_dtype_to_np_dtype(port.elem)
    if port.elem in _FLOATS:
        # Half precision is drawn in float32 and rounded: numpy draws no others.
        kind = np.float64 if port.elem == TensorProto.DOUBLE else np.float32
        return np.asarray(rng.standard_normal(shape, kind)).astype(dtype, copy=False)
    # Any row of the table will do; an index beyond it is an error in onnxruntime.
    if use.below is not None and fill != "zeros":
        return rng.integers(0, use.below, shape).astype(dtype)
    if _is_pixels(port):
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max + 1, shape).astype(dtype)
    if fill == MIXED:
        return rng.integers(0, 2, shape).astype(dtype)
    # Of one value all over: a mask of ones hides nothing, offsets of zero are always valid.
    return np.full(shape, 0 if fill == "zeros" else 1, dtype)


def _map(port: Port) -> dict[Any, Any]:
    """A map with a few plain keys, whatever keys the model knows."""
    keys: tuple[Any, ...] = _WORDS[:3] if port.key == TensorProto.STRING else (0, 1, 2)
    return dict.fromkeys(
        keys,
        "word"
        if port.elem == TensorProto.STRING
        else 1.0
        if port.elem in _FLOATS
        else 1,
    )
