"""The same kernels for GPUs, in Triton, which comes with torch's builds for them.

Without them torch would do on a GPU with three passes over the vectors (product, cast of the places, scatter) what is
one pass here. `TRITON_INTERPRET=1` runs them without a GPU, which is how they are tested.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Entries of one program of a kernel: each thread of a block of 256 has four.
_BLOCK = 1024


@triton.jit  # type: ignore[untyped-decorator]
def _place(one, other, places, dense, count, PRODUCT: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def] # fmt: skip
    numbers = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = numbers < count
    at = tl.load(places + numbers, mask=inside, other=0).to(tl.int64)
    value = tl.load(one + numbers, mask=inside)
    if PRODUCT:
        value = value * tl.load(other + numbers, mask=inside)
    tl.store(dense + at, value, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _pick(dense, places, one, other, of_one, of_other, count, PRODUCT: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def] # fmt: skip
    numbers = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = numbers < count
    at = tl.load(places + numbers, mask=inside, other=0).to(tl.int64)
    entry = tl.load(dense + at, mask=inside)
    if PRODUCT:
        left = tl.load(one + numbers, mask=inside)
        right = tl.load(other + numbers, mask=inside)
        tl.store(of_one + numbers, entry * right, mask=inside)
        tl.store(of_other + numbers, entry * left, mask=inside)
    else:
        tl.store(of_one + numbers, entry, mask=inside)


def placed(
    values: Tensor, places: Tensor, shape: torch.Size, factor: Tensor | None
) -> Tensor:
    """See `sparsify_fx.living.kernels.placed`."""
    dense = values.new_zeros(shape)
    one = values.contiguous()
    other = one if factor is None else factor.contiguous()
    count = places.numel()
    with torch.cuda.device_of(dense):  # type: ignore[no-untyped-call]
        _place[_grid(count)](
            one, other, places, dense, count, PRODUCT=factor is not None, BLOCK=_BLOCK
        )
    return dense


def picked(dense: Tensor, places: Tensor, into: Tensor) -> None:
    """See `sparsify_fx.living.kernels.picked`."""
    dense, count = dense.contiguous(), places.numel()
    with torch.cuda.device_of(dense):  # type: ignore[no-untyped-call]
        _pick[_grid(count)](
            dense, places, into, into, into, into, count, PRODUCT=False, BLOCK=_BLOCK
        )


def picked_product(
    dense: Tensor,
    places: Tensor,
    factors: tuple[Tensor, Tensor],
    into: tuple[Tensor, Tensor],
) -> None:
    """See `sparsify_fx.living.kernels.picked_product`."""
    dense, count = dense.contiguous(), places.numel()
    one, other = (factor.contiguous() for factor in factors)
    with torch.cuda.device_of(dense):  # type: ignore[no-untyped-call]
        _pick[_grid(count)](
            dense, places, one, other, *into, count, PRODUCT=True, BLOCK=_BLOCK
        )


def _grid(count: int) -> tuple[Any, ...]:
    # A grid of nothing is an error of the driver.
    return (max(1, triton.cdiv(count, _BLOCK)),)
