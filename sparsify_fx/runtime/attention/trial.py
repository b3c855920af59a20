"""Whether what lies around a softmax is attention over packed heads: numbers sent through it show where they go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from sparsify_fx.onnx_tools.shapes import Shape
from sparsify_fx.onnx_tools.view import GraphView, is_standard
from sparsify_fx.runtime.attention.core import Core
from sparsify_fx.runtime.attention.moves import cuts_known_axes, send
from sparsify_fx.runtime.attention.operator import Heads
from sparsify_fx.runtime.fusion.fuse import Arrays

MOST_VALUES = 1 << 25
"""Of packed queries, keys and values that are tried."""

_SIZES = ((2, 5, 11), (3, 7, 13))
"""For the open dimensions of those, in two trials."""

Numbers = NDArray[np.int32]


@dataclass(frozen=True)
class Match:
    """Attention that was recognized.

    Attributes:
        heads: as our operator computes it.
        last: the node after which all values lie as that operator writes them.
        reshaped: they do so in another shape, which that node gives them whatever their shape was.
        nodes: all that lie between packed heads and the result, those that compute sizes included.
    """

    heads: Heads
    last: NodeProto
    reshaped: bool
    nodes: tuple[NodeProto, ...]


def match(
    core: Core, view: GraphView, shapes: Mapping[str, Shape], constants: Arrays
) -> Match | None:
    """How our operator computes all from `core.packed` on; None when it does not, or not for all sizes."""
    for path in core.operands:
        if not cuts_known_axes(path.nodes, shapes, constants):
            return None
    # With open dimensions the same result must come of two sizes: one alone may fit by
    # chance.
    found: Match | None = None
    for sizes in _trials(core.packed, shapes):
        trial = _Trial(core, view, constants, sizes).match()
        if trial is None or (found is not None and found != trial):
            return None
        found = trial
    return found


def _trials(
    packed: str, shapes: Mapping[str, Shape]
) -> Iterator[dict[str, tuple[int, ...]]]:
    """All shapes that are known when the open dimensions of `packed` are these numbers; once when it has none."""
    given = shapes[packed]
    opened = [place for place, size in enumerate(given) if not isinstance(size, int)]
    for numbers in _SIZES[: 2 if opened else 1]:
        sizes = dict(zip(opened, numbers, strict=False))
        # A symbol that stands in several shapes has the same length in all of them.
        named = {
            given[place]: size
            for place, size in sizes.items()
            if given[place] is not None
        }
        shape = [sizes.get(place, size) for place, size in enumerate(given)]
        known = {
            name: [named.get(size, size) for size in shape]
            for name, shape in shapes.items()
        } | {packed: shape}
        yield {
            name: tuple(size for size in shape if isinstance(size, int))
            for name, shape in known.items()
            if all(isinstance(size, int) for size in shape)
        }


@dataclass(frozen=True)
class _Trial:
    """One trial, with these sizes."""

    core: Core
    view: GraphView
    constants: Arrays
    shapes: Mapping[str, tuple[int, ...]]

    def match(self) -> Match | None:
        packed = self.core.packed
        shape = self.shapes[packed]
        if not 0 < np.prod(shape, dtype=np.int64) <= MOST_VALUES:
            return None

        # 1. Every entry of the packed value gets a number of its own, so that where it
        # goes can be read off the result.
        numbers = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
        names = [path.values[-1] for path in self.core.operands]
        sent = send({packed: numbers}, names, self.view, self.constants, self.shapes)

        # 2. How queries, keys and values are cut out of it.
        heads = None if sent is None else self._heads(numbers, sent.arrays)
        if sent is None or heads is None:
            return None

        # 3. And where the result of the products goes, up to the node that gives it as
        # our operator would.
        found = self._result(heads, sent.arrays[0].shape)
        if found is None:
            return None
        last, reshaped, nodes = found
        return Match(heads, last, reshaped, (*sent.nodes, *self.core.nodes, *nodes))

    def _heads(self, numbers: Numbers, operands: tuple[Numbers, ...]) -> Heads | None:
        """How the operands are cut out of the packed value."""
        queries, keys, values = operands
        if (
            queries.ndim not in (3, 4)
            or self.core.axis % queries.ndim != queries.ndim - 1
            or keys.ndim != queries.ndim
        ):
            return None
        size = queries.shape[-1]
        # Both orders are tried, since [images, tokens] and [tokens, images] look alike in
        # shape.
        for tokens_first in (False, True):
            heads = Heads(
                numbers.shape[2] // 3 // size, size, tokens_first, self.core.scales
            )
            if 3 * heads.count * size != numbers.shape[2]:
                return None
            # Compared number by number: an equal shape alone would also fit heads that
            # are interleaved otherwise.
            expected = _apart(numbers, 3, heads)
            shape = (*queries.shape[:-2], expected.shape[-2], size)
            if queries.shape == values.shape == shape == (
                *keys.shape[:-2],
                *keys.shape[:-3:-1],
            ) and all(
                np.array_equal(each.reshape(wanted.shape), wanted)
                for each, wanted in zip(
                    (queries, keys.swapaxes(-1, -2), values), expected, strict=True
                )
            ):
                return heads
        return None

    def _result(
        self, heads: Heads, shape: tuple[int, ...]
    ) -> tuple[NodeProto, bool, tuple[NodeProto, ...]] | None:
        """The node after which the result lies as our operator writes it, whether in another shape, and all nodes."""
        first, second, width = self.shapes[self.core.packed]
        wanted = np.arange(first * second * width // 3, dtype=np.int32).reshape(
            first, second, width // 3
        )
        # Numbers that lie as the operator writes them, taken apart as the products give
        # them: the node after which they are in order again is where the operator's
        # result belongs.
        given = {self.core.mixed: _apart(wanted, 1, heads).reshape(shape)}
        for node in self.core.following:
            sent = send(given, [node.output[0]], self.view, self.constants, self.shapes)
            if sent is None:
                return None
            got = sent.arrays[0]
            # Another shape is fine if that node gives it to whatever comes.
            if np.array_equal(got.ravel(), wanted.ravel()) and (
                got.shape == wanted.shape or self._any_shape(node)
            ):
                return node, got.shape != wanted.shape, sent.nodes
        return None

    def _any_shape(self, node: NodeProto) -> bool:
        """Whether a node gives all values one shape, that of a constant."""
        return is_standard(node, "Reshape") and 0 not in self.constants.get(
            node.input[1], np.array(0)
        )


def _apart(numbers: Numbers, parts: int, heads: Heads) -> Numbers:
    """[parts, images, heads, tokens, floats] of numbers that lie as our operator reads or writes them."""
    shape = (*numbers.shape[:2], parts, heads.count, heads.size)
    return numbers.reshape(shape).transpose(
        (2, 1, 3, 0, 4) if heads.tokens_first else (2, 0, 3, 1, 4)
    )
