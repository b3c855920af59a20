"""Weights with few zeros: their living entries are given by a bit each, and eight of them are moved at once.

What moves is the same, bit for bit, as by `sparsify_fx.living.kernels`, in less time: a place takes four bytes for
each living entry, a bit an eighth of one for each entry.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsify_fx.living import native
from sparsify_fx.living.remembered import Remembered

Part = Callable[[Tensor, int, int, int], None]
Columns = Callable[[Tensor, int, int], None]

# With fewer living entries than one in so many, going from one to the next is faster than going over all bits.
_SHARE = 8
# Below, making the bits costs more than they save.
_LEAST = 1 << 12
# By the places of a weight: their version, and their bits.
_KNOWN: Remembered[tuple[int, Tensor]] = Remembered()

# The arguments of each, see runtime/csrc/living_bits.cpp: p a pointer, n a number.
_ARGUMENTS = {
    "sparsify_fx_place_bits": "ppnppnn",
    "sparsify_fx_place_bit_columns": "ppnppnpnnnn",
    "sparsify_fx_pick_bits": "pnpnppppn",
}


def bits_of(places: Tensor, size: int) -> Tensor:
    """A bit for each of `size` entries, set at `places`; uint8, the least significant bit first.

    >>> bits_of(torch.tensor([0, 3, 9], dtype=torch.int32), 10)
    tensor([9, 2], dtype=torch.uint8)
    """
    known = _KNOWN.get(places)
    if known is None or known[0] != places._version:
        lives = np.zeros(size, dtype=bool)
        lives[places.numpy()] = True
        packed = np.packbits(lives, bitorder="little")
        known = (places._version, torch.from_numpy(packed))
        _KNOWN.put(places, known)
    return known[1]


def pays(places: Tensor, size: int, *vectors: Tensor | None) -> bool:
    """Whether there are kernels for these, and they are faster than those that go by places."""
    return (
        size >= _LEAST
        and _SHARE * places.numel() >= size
        and _functions() is not None
        and places.device.type == "cpu"
        and places.dtype == torch.int32
        # Those that were copied under inference_mode do not tell whether they were written since.
        and not places.is_inference()
        and all(_is_vector(each) for each in vectors if each is not None)
    )


def _is_vector(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32


def placer(factors: tuple[Tensor, ...], places: Tensor, size: int) -> Part:
    """`kernels.placer` for a weight of `size` entries; parts begin at multiples of eight.

    Args:
        factors: one or two vectors, whose product are the values at `places`.
    """
    kernel, bits = _function("sparsify_fx_place_bits"), bits_of(places, size)
    given, pointers = _pointers(factors)
    step, threads = given[0].element_size(), torch.get_num_threads()

    def put(part: Tensor, first: int, last: int, origin: int) -> None:
        kernel(
            *(each and each + step * first for each in pointers),
            last - first,
            bits.data_ptr() + origin // 8,
            part.data_ptr(),
            part.numel(),
            threads,
        )

    # Pointers keep nothing alive.
    put.holds = given  # type: ignore[attr-defined]
    return put


def column_placer(
    factors: tuple[Tensor, ...], places: Tensor, starts: Tensor, shape: torch.Size
) -> Columns:
    """`kernels.column_placer`; the columns of the weight and of each block are multiples of eight."""
    kernel = _function("sparsify_fx_place_bit_columns")
    bits = bits_of(places, shape.numel())
    given, pointers = _pointers(factors)
    rows, columns = shape
    blocks = (starts.numel() - 1) // rows

    def put(block: Tensor, number: int, column: int) -> None:
        kernel(
            *pointers,
            places.numel(),
            bits.data_ptr(),
            starts.data_ptr() + starts.element_size() * number,
            blocks,
            block.data_ptr(),
            rows,
            columns,
            column,
            block.shape[1],
        )

    # Pointers keep nothing alive.
    put.holds = given  # type: ignore[attr-defined]
    return put


def picker(
    places: Tensor, size: int, factors: tuple[Tensor, ...], into: tuple[Tensor, ...]
) -> Part:
    """`kernels.picker`, and `kernels.product_picker` with two factors; parts begin at multiples of eight."""
    kernel, bits = _function("sparsify_fx_pick_bits"), bits_of(places, size)
    given, pointers = _pointers(factors)
    _, results = _pointers(into)
    step, threads = into[0].element_size(), torch.get_num_threads()

    def pick(part: Tensor, first: int, last: int, origin: int) -> None:
        part = part.contiguous()
        kernel(
            part.data_ptr(),
            part.numel(),
            bits.data_ptr() + origin // 8,
            last - first,
            *(each and each + step * first for each in pointers + results),
            threads,
        )

    # Pointers keep nothing alive.
    pick.holds = given  # type: ignore[attr-defined]
    return pick


def _pointers(
    factors: tuple[Tensor, ...],
) -> tuple[list[Tensor], list[int | None]]:
    """Up to two vectors as kernels want them, and where they are; None for those that are not there."""
    given = [each.contiguous() for each in factors]
    found: list[int | None] = [each.data_ptr() for each in given]
    return given, found + [None] * (2 - len(given))


def _function(name: str) -> Any:
    functions = _functions()
    assert functions is not None, "asked without `pays`"
    return functions[name]


@functools.cache
def _functions() -> dict[str, Any] | None:
    """The kernels by name; None without a library, or on a processor without what they need."""
    library = native.loaded()
    # A library that was built before there were these kernels is no reason to fail.
    if library is None or not hasattr(library, "sparsify_fx_has_bits"):
        return None
    if not library.sparsify_fx_has_bits():
        return None
    return {name: native.function(name, wants) for name, wants in _ARGUMENTS.items()}
