"""The kernels that move entries between a dense tensor and a vector, on tensors; torch's own where ours do not fit.

None knows of gradients; `sparsify_fx.living.place` and `sparsify_fx.living.linear` do.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparsify_fx.living import bits, native
from sparsify_fx.living.memory import memory_for

_Function = Callable[..., None]
Vectors = tuple[Tensor, Tensor]
Part = Callable[[Tensor, int, int, int], None]

# The arguments of each, see runtime/csrc/living.cpp: p a pointer, n a number.
_ARGUMENTS = {
    "sparsify_fx_place_values": "ppnpnnnn",
    "sparsify_fx_place_product": "pppnpnnnn",
    "sparsify_fx_place_columns": "ppppnpnnnnn",
    "sparsify_fx_pick": "pnnpnpnn",
    "sparsify_fx_pick_product": "pnnpnppppnn",
}
# Bytes of an entry for which there are kernels: some move bits and do not compute, others multiply.
_MOVED, _MULTIPLIED = (2, 4, 8), (4, 8)
# Not bfloat16: Triton's interpreter multiplies its bits as if they were integers (3.8.0), so it could not be tested.
_BY_TRITON = (torch.float32, torch.float64, torch.float16)


def placed(
    values: Tensor, places: Tensor, shape: torch.Size, factor: Tensor | None = None
) -> Tensor:
    """A dense tensor with `values` at `places` of its flattened form, and +0.0 elsewhere.

    Args:
        values: at least as many entries as `places`, in any shape; what is behind them takes no part.
        places: rising; int32, or int64 for tensors of 2³¹ entries and more.
        shape: of the result.
        factor: like `values`, which are multiplied by it.
    """
    put = placer(values, places, factor, shape.numel())
    if put is None and (triton := _triton(values, places, factor)):
        made: Tensor = triton.placed(values, places, shape, factor)
        return made
    if put is None:
        product = values if factor is None else values * factor
        dense, flat = values.new_zeros(shape), product.reshape(-1)[: places.numel()]
        dense.view(-1).index_copy_(0, places.long(), flat)
        return dense
    dense = memory_for(places, shape, values.dtype)
    put(dense, 0, places.numel(), 0)
    return dense


def placer(
    values: Tensor, places: Tensor, factor: Tensor | None, size: int
) -> Part | None:
    """`placed` for parts of a dense tensor of `size` entries: put(part, first, last, origin).

    The places in a part are those from first to last, and `origin`, a multiple of eight, is the place of its first
    entry; the part is contiguous. None where there is no kernel.
    """
    if bits.pays(places, size, values, factor):
        flat = [each.reshape(-1) for each in (values, factor) if each is not None]
        return bits.placer(tuple(flat), places, size)
    product = factor is not None
    name = "sparsify_fx_place_product" if product else "sparsify_fx_place_values"
    kernel = _kernel(name, places, values, factor)
    if kernel is None:
        return None
    given = [each.contiguous() for each in (values, factor) if each is not None]
    pointers = [each.data_ptr() for each in given]
    numbers, size = places.data_ptr(), values.element_size()
    threads = torch.get_num_threads()

    def put(part: Tensor, first: int, last: int, origin: int) -> None:
        kernel(
            *(pointer + size * first for pointer in pointers),
            numbers + 4 * first,
            last - first,
            part.data_ptr(),
            origin,
            part.numel(),
            size,
            threads,
        )

    # Pointers keep nothing alive.
    put.holds = given  # type: ignore[attr-defined]
    return put


def column_placer(
    factors: tuple[Tensor, ...], places: Tensor, starts: Tensor, shape: torch.Size
) -> Callable[[Tensor, int, int], None] | None:
    """Write some columns of a matrix of this shape: put(block, number of the block, its first column).

    None where there is no kernel.

    Args:
        factors: one or two vectors, whose product are the values at `places`.
        starts: for each row and block of columns the number of its first place, and their number at the end; int32.
    """
    if bits.pays(places, shape.numel(), *factors) and shape[1] % 8 == 0:
        return bits.column_placer(factors, places, starts, shape)
    kernel = _kernel("sparsify_fx_place_columns", places, *factors)
    if kernel is None:
        return None
    given = [each.contiguous() for each in factors]
    pointers = [each.data_ptr() for each in given] + [None] * (2 - len(given))
    rows, columns = shape
    blocks = (starts.numel() - 1) // rows

    def put(block: Tensor, number: int, column: int) -> None:
        kernel(
            *pointers,
            places.data_ptr(),
            starts.data_ptr() + starts.element_size() * number,
            blocks,
            block.data_ptr(),
            rows,
            columns,
            column,
            block.shape[1],
            block.element_size(),
        )

    # Pointers keep nothing alive.
    put.holds = given  # type: ignore[attr-defined]
    return put


def picked(dense: Tensor, places: Tensor, into: Tensor) -> Tensor:
    """Write the entries of `dense` at `places` of its flattened form to the beginning of a vector, and return it.

    Args:
        into: at least as long as `places`, contiguous; what is behind them stays.
    """
    if triton := _triton(dense, places, into):
        triton.picked(dense, places, into)
    else:
        picker(places, into, dense.numel())(dense, 0, places.numel(), 0)
    return into


def picked_product(
    dense: Tensor, places: Tensor, factors: Vectors, into: Vectors
) -> None:
    """Write the gradients of both factors of a product: the entry of `dense` times the other factor.

    Args:
        factors: vectors at least as long as `places`.
        into: as in `picked`, for each factor.
    """
    if triton := _triton(dense, places, *factors):
        triton.picked_product(dense, places, factors, into)
    else:
        pick = product_picker(places, factors, into, dense.numel())
        pick(dense, 0, places.numel(), 0)


def picker(places: Tensor, into: Tensor, size: int) -> Part:
    """`picked` for parts of a dense tensor of `size` entries: pick(part, first, last, origin), see `placer`.

    What is the same for all parts is looked up once.
    """
    if bits.pays(places, size, into) and into.is_contiguous():
        return bits.picker(places, size, (), (into,))
    kernel = _kernel("sparsify_fx_pick", places, into)
    if kernel is None:

        def pick_by_torch(part: Tensor, first: int, last: int, origin: int) -> None:
            own = places[first:last] - origin
            torch.index_select(part.reshape(-1), 0, own, out=into[first:last])

        return pick_by_torch
    numbers, values = places.data_ptr(), into.data_ptr()
    size, threads = into.element_size(), torch.get_num_threads()

    def pick(part: Tensor, first: int, last: int, origin: int) -> None:
        part = part.contiguous()
        kernel(
            part.data_ptr(),
            origin,
            part.numel(),
            numbers + 4 * first,
            last - first,
            values + size * first,
            size,
            threads,
        )

    return pick


def product_picker(places: Tensor, factors: Vectors, into: Vectors, size: int) -> Part:
    """`picked_product` for parts of a dense tensor, see `picker`."""
    if bits.pays(places, size, *factors, *into):
        return bits.picker(places, size, factors, into)
    kernel = _kernel("sparsify_fx_pick_product", places, *factors)
    if kernel is None:

        def pick_by_torch(part: Tensor, first: int, last: int, origin: int) -> None:
            own = places[first:last] - origin
            entries = part.reshape(-1).index_select(0, own)
            for other, vector in zip(reversed(factors), into, strict=True):
                torch.mul(entries, other[first:last], out=vector[first:last])

        return pick_by_torch
    factors = (factors[0].contiguous(), factors[1].contiguous())
    pointers = [each.data_ptr() for each in (*factors, *into)]
    numbers, size = places.data_ptr(), into[0].element_size()
    threads = torch.get_num_threads()

    def pick(part: Tensor, first: int, last: int, origin: int) -> None:
        part, skipped = part.contiguous(), size * first
        kernel(
            part.data_ptr(),
            origin,
            part.numel(),
            numbers + 4 * first,
            last - first,
            *(pointer + skipped for pointer in pointers),
            size,
            threads,
        )

    # Pointers keep nothing alive.
    pick.holds = factors  # type: ignore[attr-defined]
    return pick


def _triton(first: Tensor, places: Tensor, *others: Tensor | None) -> Any:
    """The kernels for GPUs where they can do it, else None."""
    fits = (
        first.device.type == "cuda"
        and places.device == first.device
        and first.dtype in _BY_TRITON
        and all(each is None or each.dtype == first.dtype for each in others)
    )
    return _triton_kernels() if fits else None


@functools.cache
def _triton_kernels() -> Any:
    try:
        return importlib.import_module("sparsify_fx.living.triton_kernels")
    except ImportError:
        # torch's builds for Windows and macOS come without it.
        return None


def _kernel(name: str, places: Tensor, *tensors: Tensor | None) -> _Function | None:
    """The function of the library, or None where torch's operators have to do it."""
    given = [tensor for tensor in tensors if tensor is not None]
    first = given[0]
    # Only entries that are moved may be of any kind.
    product = name.endswith(("product", "columns"))
    fits = (
        first.device.type == "cpu"
        and places.dtype == torch.int32
        and places.is_contiguous()
        and first.element_size() in (_MULTIPLIED if product else _MOVED)
        and not first.is_complex()
        and (not product or first.is_floating_point())
        and all(each.dtype == first.dtype for each in given)
    )
    return _function(name) if fits else None


@functools.cache
def _function(name: str) -> _Function | None:
    return native.function(name, _ARGUMENTS[name])
