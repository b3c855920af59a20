"""The three products of a linear layer, over blocks of a weight that is never in memory as a whole.

    forward     y = x Wᵀ        blocks of rows of W, each placed and multiplied
    backward    x' = g W        blocks of columns of W, each placed and multiplied
                W' = gᵀ x       blocks of rows of W', each multiplied and its living entries picked

Each block has the same small piece of memory, which stays in the second-level cache. Blocks divide the result of a
product, whose entries are the same sums. They are in the same order too, to the bit, as long as blocks are of whole
groups of lines and the precision is single: measured with MKL for 750 random shapes, batches and numbers of threads.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sparsify_fx.living.kernels import (
    column_placer,
    picker,
    placed,
    placer,
    product_picker,
)
from sparsify_fx.living.place import empty_vector
from sparsify_fx.living.remembered import Remembered

# Bytes of a block. Smaller ones lie nearer to the processor, but a matrix library does less well in small pieces, most
# of all where the instructions are narrow. Measured on AVX2 with 512 kB of second-level cache; on AVX512 blocks of
# 128 kB were faster for up to 8 rows.
_BLOCK_BYTES = 1 << 20
# With more rows the memory that blocks save no longer counts beside the work.
MOST_ROWS = 128
# Matrix libraries do the lines of a result in groups, and what is left over in another way, whose sums are rounded
# otherwise. Blocks of whole groups leave over what the whole would.
GROUP = 16
# By the places of a weight: their version, and where blocks of some size begin among them.
_KNOWN: Remembered[tuple[int, dict[tuple[str, int], Any]]] = Remembered()


@dataclass(frozen=True)
class Entries:
    """A weight by its living entries: `values` at `places`, times `factor` if there is one.

    Attributes:
        shape: rows and columns.
    """

    values: Tensor
    factor: Tensor | None
    places: Tensor
    shape: torch.Size

    def factors(self) -> tuple[Tensor, ...]:
        """What has gradients, as flat vectors."""
        given = (self.values, self.factor)
        return tuple(each.reshape(-1) for each in given if each is not None)


def outputs(inputs: Tensor, weight: Entries, bias: Tensor | None) -> Tensor:
    """inputs Wᵀ + bias for inputs [..., columns].

    >>> values, places = torch.tensor([2.0, 3.0]), torch.tensor([0, 3], dtype=torch.int32)
    >>> outputs(torch.ones(1, 2), Entries(values, None, places, torch.Size([2, 2])), None)
    tensor([[2., 3.]])
    """
    rows, columns = weight.shape
    put = placer(weight.values, weight.places, weight.factor, weight.shape.numel())
    if put is None:
        whole = placed(weight.values, weight.places, weight.shape, weight.factor)
        return F.linear(inputs, whole, bias)
    # Made in its own shape: torch lets nobody write into a view that a custom function returns, an in-place ReLU say.
    made = inputs.new_empty(*inputs.shape[:-1], rows)
    inputs, lines = inputs.reshape(-1, columns), made.view(-1, rows)
    height = _fitting(columns, rows, inputs)
    block = inputs.new_empty(height, columns)
    for part, first, last in _row_blocks(weight, height):
        own = block[: part.stop - part.start]
        put(own, first, last, part.start * columns)
        if bias is None:
            torch.mm(inputs, own.t(), out=lines[:, part])
        else:
            torch.addmm(bias[part], inputs, own.t(), out=lines[:, part])
    return made


def input_gradients(gradient: Tensor, weight: Entries) -> Tensor:
    """gradient W for a gradient [n, rows]."""
    rows, columns = weight.shape
    width = _fitting(rows, columns, gradient)
    starts = _column_starts(weight, width)
    put = column_placer(weight.factors(), weight.places, starts, weight.shape)
    if put is None:
        return gradient @ placed(
            weight.values, weight.places, weight.shape, weight.factor
        )
    made = gradient.new_empty(len(gradient), columns)
    memory = gradient.new_empty(rows * width)
    for number, column in enumerate(range(0, columns, width)):
        own = min(width, columns - column)
        block = memory[: rows * own].view(rows, own)
        put(block, number, column)
        torch.mm(gradient, block, out=made[:, column : column + own])
    return made


def weight_gradients(
    gradient: Tensor, inputs: Tensor, weight: Entries
) -> tuple[Tensor, Tensor | None]:
    """The gradients of `values` and `factor`, from the living entries of gradientᵀ inputs."""
    rows, columns = weight.shape
    height = _fitting(columns, rows, gradient)
    block, turned = gradient.new_empty(height, columns), gradient.t()
    flat = weight.factors()
    made = [empty_vector(each, weight.places) for each in flat]
    take = (
        picker(weight.places, made[0], weight.shape.numel())
        if weight.factor is None
        else product_picker(
            weight.places, (flat[0], flat[1]), (made[0], made[1]), weight.shape.numel()
        )
    )
    for part, first, last in _row_blocks(weight, height):
        if first == last:
            continue
        own = block[: part.stop - part.start]
        torch.mm(turned[part], inputs, out=own)
        take(own, first, last, part.start * columns)
    shaped = [each.view(weight.values.shape) for each in made]
    return shaped[0], shaped[1] if weight.factor is not None else None


def _fitting(length: int, most: int, like: Tensor) -> int:
    """How many lines of this length a block has, in whole groups; at most all."""
    groups = _BLOCK_BYTES // (length * like.element_size() * GROUP)
    return min(most, max(1, groups) * GROUP)


def _row_blocks(weight: Entries, height: int) -> Iterator[tuple[slice, int, int]]:
    """The rows of each block, and the numbers of its first place and of the one after its last."""
    rows, columns = weight.shape

    def find() -> list[int]:
        end = (rows + height) * columns
        bounds = torch.arange(0, end, height * columns, device="cpu")
        return _before(weight.places, bounds).tolist()

    starts = _known(weight.places, ("rows", height), find)
    for number, (first, last) in enumerate(itertools.pairwise(starts)):
        top = number * height
        yield slice(top, min(rows, top + height)), first, last


def _column_starts(weight: Entries, width: int) -> Tensor:
    """Where the places of each block of columns begin, row after row; int32, flat, with the end of all at its end."""
    rows, columns = weight.shape

    def find() -> Tensor:
        firsts = torch.arange(0, columns, width, device="cpu")
        bounds = torch.arange(0, rows * columns, columns, device="cpu").unsqueeze(1)
        end = bounds.new_tensor([rows * columns])
        ends = torch.cat([(bounds + firsts).reshape(-1), end])
        return _before(weight.places, ends).to(torch.int32)

    found: Tensor = _known(weight.places, ("columns", width), find)
    return found


def _before(places: Tensor, bounds: Tensor) -> Tensor:
    """How many places lie before each bound."""
    # A weight may have 2³¹ - 1 entries, whose end is no int32.
    return torch.searchsorted(places.long(), bounds)


def _known(places: Tensor, key: tuple[str, int], find: Any) -> Any:
    """What was found of these places before; it goes with them."""
    known = _KNOWN.get(places)
    # Averages copy buffers in place.
    if known is None or known[0] != places._version:
        known = (places._version, {})
        _KNOWN.put(places, known)
    if key not in known[1]:
        known[1][key] = find()
    return known[1][key]
