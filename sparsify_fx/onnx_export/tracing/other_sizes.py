"""Other sizes to verify a traced graph with: which numbers its open axes follow, and values that the model takes.

After tracing, the size of an open axis is an expression in a few symbols: `batch`, `2*width`, `s0 + s1`. Axes that must
be equal have one symbol, so moving symbols instead of axes gives inputs that fit each other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import onnx
import sympy  # type: ignore[import-untyped]

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export.tracing.inputs import Inputs
from sparsify_fx.onnx_export.tracing.open_axes import Axes, is_optional, limits

_STEPS = (1, 2, 4, 8, 16, 32, 64, -1, -2, -4)
Run = Callable[[Inputs], Any]
T = TypeVar("T")


class FixedAxesError(ExportError):
    """The model takes no other size; `symbols` are the numbers that cannot move."""

    def __init__(self, message: str, symbols: tuple[str, ...]) -> None:
        super().__init__(message)
        self.symbols = symbols


@dataclass(frozen=True)
class OpenSizes:
    """The sizes of the open axes: per tensor and axis an expression of numbers with names, as `2*width`."""

    inputs: Inputs
    names: tuple[str, ...]
    axes: tuple[dict[int, sympy.Expr], ...]
    values: dict[str, int]
    ranges: dict[str, tuple[float, float]]

    def moved(self, changes: Mapping[str, int]) -> Inputs:
        """The inputs with other numbers."""
        values = self.values | dict(changes)
        # All axes follow their expressions, so that 2*width stays even and sums stay sums.
        return self.inputs.resized(
            [
                {axis: int(size.subs(values)) for axis, size in mine.items()}
                for mine in self.axes
            ]
        )

    def candidates(self, symbol: str) -> list[int]:
        """Values for a number, nearby ones first; its own is not among them."""
        # Small steps first, as models with a range are least surprised by neighbors;
        # then powers of two, for those that need multiples; down last.
        now, (least, most) = self.values[symbol], self.ranges[symbol]
        tried = [now + step for step in _STEPS] + [2 * now, now // 2]
        return [
            value for value in dict.fromkeys(tried) if max(1, least) <= value <= most
        ]

    def places_of(self, symbols: tuple[str, ...]) -> list[tuple[int, int]]:
        """(tensor, axis) of every axis that follows one of the numbers."""
        wanted = {sympy.Symbol(symbol) for symbol in symbols}
        found = []
        for n, mine in enumerate(self.axes):
            for axis, size in mine.items():
                if size.free_symbols & wanted:
                    found.append((n, axis))
        return found

    def told(self, symbols: tuple[str, ...]) -> str:
        """The axes in words: `axis 2 of image (16 in example_inputs)`."""
        sizes = [value.shape for value in self.inputs.tensors]
        return ", ".join(
            f"axis {axis} of {self.names[n]} ({sizes[n][axis]} in example_inputs)"
            for n, axis in self.places_of(symbols)
        )


def read_sizes(graph: onnx.GraphProto, inputs: Inputs, axes: Axes) -> OpenSizes:
    """The open sizes of a graph that was traced with `axes` open; its inputs are in the order of `inputs`.

    Raises ExportError when the graph fixes one of them that had to be open.
    """
    found: list[dict[int, sympy.Expr]] = []
    values: dict[str, int] = {}
    ranges: dict[str, tuple[float, float]] = {}
    for item, tensor, wanted in zip(graph.input, inputs.tensors, axes, strict=True):
        mine = {}
        for axis, spec in wanted.items():
            # Empty where torch.export fixed the axis: a number is in its place.
            text = item.type.tensor_type.shape.dim[axis].dim_param
            if text:
                mine[axis] = _expression(text)
                _note(mine[axis], tensor.shape[axis], spec, values, ranges)
            elif not is_optional(spec):
                raise ExportError(
                    f"axis {axis} of {item.name} cannot be open: the model computes with its size in example_inputs, "
                    f"{tensor.shape[axis]}, as a number; leave it out of dynamic_shapes, or let forward read it from "
                    "the shape of its input"
                )
        found.append(mine)
    return OpenSizes(
        inputs, tuple(item.name for item in graph.input), tuple(found), values, ranges
    )


def _expression(text: str) -> sympy.Expr:
    """The size of an axis; names are numbers, also those that mean something to sympy."""
    # sympy would read N, S, E and others as its own constants and functions.
    names = {name: sympy.Symbol(name) for name in re.findall(r"[A-Za-z_]\w*", text)}
    try:
        expression: sympy.Expr = sympy.parse_expr(text, local_dict=names)
    except Exception:  # a name that is a keyword of Python
        return sympy.Symbol(text)
    return expression


def _note(
    size: sympy.Expr,
    now: int,
    spec: Any,
    values: dict[str, int],
    ranges: dict[str, tuple[float, float]],
) -> None:
    """Keep what an axis says of the one number that it follows: the value, and the range."""
    for symbol in size.free_symbols:
        # From 2*width = 64 follows width = 32. With two symbols there is no single
        # answer, and any will do: sizes are only moved from here.
        solved = sympy.solve(size - now, symbol)
        values.setdefault(
            symbol.name, int(solved[0]) if solved and solved[0].is_number else now
        )
        least, most = limits(spec)
        # Several axes may bound one symbol: all of them count.
        low, high = ranges.get(symbol.name, (1.0, float("inf")))
        ranges[symbol.name] = (max(low, least), min(high, most))


def another_size(
    sizes: OpenSizes, run: Callable[[Inputs], T]
) -> tuple[Inputs, T, str] | None:
    """Inputs with every number moved, what `run` makes of them, and the change in words; None if none can move.

    Raises FixedAxesError when the model takes no other value of some of them.
    """
    movable = {
        symbol: tried for symbol in sizes.values if (tried := sizes.candidates(symbol))
    }
    # 1. All at once, as independent symbols cost no more runs together than one.
    problem: ExportError | None = None
    for changes in _together(movable):
        inputs = sizes.moved(changes)
        try:
            told = ", ".join(f"{symbol}={value}" for symbol, value in changes.items())
            return inputs, run(inputs), told
        except ExportError as error:
            problem = problem or error
    if problem is None:
        return None

    # 2. It takes none of these: find out which symbols cannot move alone, for the error and
    # for axes that may be fixed. If each can, only together they cannot, and all are named.
    stuck = tuple(
        symbol
        for symbol, tried in movable.items()
        if not _moves(sizes, symbol, tried, run)
    )
    stuck = stuck or tuple(movable)
    values = ", ".join(str(value) for value in movable[stuck[0]][:5])
    raise FixedAxesError(
        f"the model takes no other size of {sizes.told(stuck)}: {stuck[0]} was tried with {values}, …: {problem}. "
        "Leave what is not open out of dynamic_shapes, or say which sizes the model takes: "
        '{2: 32 * torch.export.Dim("height")} for multiples of 32, Dim(..., min=, max=) for a range',
        stuck,
    )


def _together(movable: Mapping[str, list[int]]) -> Iterator[dict[str, int]]:
    """Every number moved at once, in several steps."""
    # In step: the product of all steps would be too many runs.
    for turn in range(max(map(len, movable.values()), default=0)):
        yield {
            symbol: tried[min(turn, len(tried) - 1)]
            for symbol, tried in movable.items()
        }


def _moves(sizes: OpenSizes, symbol: str, tried: list[int], run: Run) -> bool:
    """Whether the model takes another value of one number alone."""
    for value in tried:
        try:
            run(sizes.moved({symbol: value}))
        except ExportError:
            continue
        return True
    return False
