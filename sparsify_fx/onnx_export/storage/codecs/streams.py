"""Places in streams side by side: the form of gap codes that onnxruntime sums up fastest and in the least memory."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from sparsify_fx.onnx_export.storage.codecs.bits import Places, with_stops
from sparsify_fx.onnx_export.storage.codecs.parts import Parts

_ENOUGH = 4096
"""Places from which more columns pay."""


@dataclass(frozen=True)
class StepCode:
    """How steps become words of `bits`: `per` digits of `base` each, the lowest first, a digit the step less `less`.

    `columns`: numbers of streams side by side, for many places and for few; multiples of `per` and of 8.
    """

    bits: int
    per: int
    base: int
    less: int
    columns: tuple[int, int] = (48, 24)

    @property
    def widest(self) -> int:
        """The widest step that there is a code for."""
        return self.base - 1 + self.less

    @property
    def dtype(self) -> np.dtype[np.integer]:
        """The type of a word."""
        return np.dtype(np.int32 if self.bits == 32 else f"u{self.bits // 8}")


STEP_CODES = (
    StepCode(16, 4, 16, 1),  # looked up in a table
    StepCode(16, 3, 40, 1),
    StepCode(32, 5, 73, 0, (40, 40)),  # by division: a table would be too large
    StepCode(8, 1, 256, 0),  # as they are
)


@dataclass(frozen=True)
class Streams:
    """Places [rows, columns / per, per], each column a run of them in ascending order, the next one after it.

    place[r, c] = starts[c] + step[0, c] + ... + step[r, c]; `words` [rows, columns / per] hold the steps, with a last
    axis of 1 where they are divided.
    `kernel`: None, or for MaxUnpool, whose arrays have two axes of 1 in front: with it, MaxUnpool of such an array has
    as many entries as the weight.
    """

    code: StepCode
    places: Places
    words: NDArray[np.integer]
    starts: NDArray[np.int32]
    kernel: tuple[int, ...] | None

    def cost(self, value_bits: float) -> float:
        """Bits of all codes, and of all values with `value_bits` each."""
        return (
            8.0 * (self.words.nbytes + self.starts.nbytes)
            + self.places.size * value_bits
        )


def best_streams(
    places: NDArray[np.intp], size: int, value_bits: float, *, pooled: bool = False
) -> Streams | None:
    """The streams of fewest bits for places in a weight of `size` entries, if a value takes `value_bits`.

    None if there are no streams: the weight has too few zeros to fill the last row or, for MaxUnpool (`pooled`), a
    size with no fitting divisor.
    """
    ascending = places.astype(np.int64)
    # A generator: one at a time in memory.
    found = (_with_code(ascending, size, code, pooled) for code in STEP_CODES)
    kept = (streams for streams in found if streams is not None)
    return min(kept, key=lambda streams: streams.cost(value_bits), default=None)


def _with_code(
    places: Places, size: int, code: StepCode, pooled: bool
) -> Streams | None:
    """The streams with this code, in as many columns as pay and fit."""
    # Stops are stored as values, so they count for how many columns pay.
    stops = with_stops(places, code.widest)
    # More columns sum up faster, each being shorter, but need a start each; where they do
    # not fit, fewer may.
    for columns in code.columns[stops.size < _ENOUGH :]:
        if (streams := _streams(stops, size, code, columns, pooled)) is not None:
            return streams
    return None


def _streams(
    stops: Places, size: int, code: StepCode, columns: int, pooled: bool
) -> Streams | None:
    # 1. All columns have one length, so some values may have to be stored that are zeros.
    filled = _filled(stops, columns)
    if filled is None:
        return None
    rows, per = filled.size // columns, code.per
    inner = (columns // per, per) if per > 1 else (columns,)

    # 2. The kernel decides how large the result of MaxUnpool is, and not every size has a
    # kernel.
    kernel = _kernel((rows, *inner), size) if pooled else None
    if pooled and kernel is None:
        return None
    front = (1, 1) if pooled else ()

    # 3. Each column is a run of consecutive places. CumSum then goes along the rows,
    # adding a whole row of columns at once where a single stream would be one long chain.
    ordered = np.ascontiguousarray(filled.reshape(columns, rows).T)
    # Each column counts on from the end of the one before it, the first from -1 as with
    # all gap codes.
    starts = np.concatenate([[-1], ordered[-1, :-1]])
    steps = np.diff(ordered, axis=0, prepend=starts[None])

    # 4. Several steps make one word: three of up to 40 fit 16 bits, which three codes of
    # 6 bits would not.
    digits = (steps - code.less).reshape(rows, columns // per, per)
    words = (digits @ code.base ** np.arange(per)).astype(code.dtype)
    shape = (*front, rows, columns // per)
    return Streams(
        code=code,
        places=ordered.reshape(*front, rows, *inner),
        words=words.reshape((*shape, 1) if code.bits == 32 else shape),
        starts=starts.astype(np.int32).reshape(inner),
        kernel=kernel,
    )


def _filled(places: Places, columns: int) -> Places | None:
    """The places and as many more, each in front of one, as make the number a multiple; None if there is no room."""
    # In front of a place that has a zero before it: any zero may be stored as a value,
    # and no step gets wider by that.
    missing = -places.size % columns
    free = np.flatnonzero(np.diff(places, prepend=-1) > 1)[:missing]
    if free.size < missing:
        return None
    return np.sort(np.concatenate([places, places[free] - 1])) if missing else places


def _kernel(shape: tuple[int, ...], size: int) -> tuple[int, ...] | None:
    """A kernel for which MaxUnpool makes `size` entries of [1, 1, *shape]: each side grows by the kernel's less one.

    >>> _kernel((10, 16, 3), 64 * 32)
    (23, 1, 2)
    """
    # A few hundred products at most. The first axis takes whatever factor of the size is
    # left.
    for sides in itertools.product(*(range(side, 2 * side + 8) for side in shape[1:])):
        outer, rest = divmod(size, math.prod(sides))
        if not rest and outer >= shape[0]:
            return tuple(
                out - side + 1 for out, side in zip((outer, *sides), shape, strict=True)
            )
    return None


def summed(parts: Parts, streams: Streams) -> str:
    """The nodes that sum the steps up; returns the name of the places as int32."""
    steps = _steps(parts, parts.own("gaps", streams.words), streams.code)
    # Along the rows, which are the first axis but for MaxUnpool.
    if streams.kernel is None:
        axis = parts.share("axis", np.array(0, np.int64))
    else:
        axis = parts.awaited(parts.share("rows_axis", np.array(2, np.int64)))
    sums = parts.node("CumSum", [steps, axis], "sum")
    return parts.node("Add", [sums, parts.own("start", streams.starts)], "place")


def _steps(parts: Parts, words: str, code: StepCode) -> str:
    """The nodes that take the words apart; returns the name of the steps as int32."""
    # base**per words are too many for a table, so the digits are divided out.
    if code.bits == 32:
        powers, base = _digits(parts, code)
        shifted = parts.node("Div", [words, parts.awaited(powers)], "shifted")
        return parts.node("Mod", [shifted, base], "step")
    if code.per > 1:
        indices = parts.node("Cast", [words], "word", {"to": onnx.TensorProto.INT32})
        words = parts.node(
            "Gather", [parts.awaited(_table(parts, code)), indices], "short"
        )
    return parts.node("Cast", [words], "step", {"to": onnx.TensorProto.INT32})


def _digits(parts: Parts, code: StepCode) -> tuple[str, str]:
    """The powers of the base, and the base: digit i of a word is word // powers[i] % base."""
    powers = parts.share(
        f"powers.{code.base}", (code.base ** np.arange(code.per)).astype(np.int32)
    )
    return powers, parts.share(f"base.{code.base}", np.array(code.base, np.int32))


def _table(parts: Parts, code: StepCode) -> str:
    """[base ** per, per] uint8: the steps of every word, made once for all weights."""
    name = f"steps.{code.base}_{code.per}"
    # Computed when the file is loaded: stored, the table would take up to 256 KB of it.
    ends = [
        parts.share(role, np.array(end, np.int32))
        for role, end in (("nought_i", 0), ("one_i", 1))
    ]
    end = parts.share(f"{name}_end", np.array(code.base**code.per, np.int32))
    column = parts.share("column", np.array([-1, 1], np.int64))
    powers, base = _digits(parts, code)
    words = parts.share_node("Range", [ends[0], end, ends[1]], f"{name}_words")
    shifted = parts.share_node("Div", [parts.share_node("Reshape", [words, column], f"{name}_column"), powers],
                               f"{name}_shifted")  # fmt: skip
    digits = parts.share_node("Mod", [shifted, base], f"{name}_digits")
    steps = parts.share_node("Add", [digits, ends[1]], f"{name}_steps")
    return parts.share_node("Cast", [steps], name, {"to": onnx.TensorProto.UINT8})


def unpooled(parts: Parts, values: str, places: str, kernel: tuple[int, ...]) -> str:
    """A tensor of zeros with the values at the places: what MaxUnpool makes of maxima and where they were."""
    # MaxUnpool reads places as int64 alone; up to here int32 halves the memory.
    linear = parts.node("Cast", [places], "at", {"to": onnx.TensorProto.INT64})
    return parts.node(
        "MaxUnpool", [values, linear], "flat", {"kernel_shape": list(kernel)}
    )
