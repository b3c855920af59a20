"""The two kernels that move entries between a dense tensor and a vector, on tensors; torch's own where ours do not fit.

Neither knows of gradients; `sparsify_fx.living.place` does.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from sparsify_fx.living.native import loaded

# Bytes of an entry for which there are kernels: they move bits and do not compute.
_SIZES = (2, 4, 8)
_Function = Callable[..., None]


def placed(values: Tensor, places: Tensor, shape: torch.Size) -> Tensor:
    """A new dense tensor with `values` at `places` of its flattened form, and +0.0 elsewhere.

    Args:
        values: at least as many entries as `places`, in any shape; what is behind them takes no part.
        places: rising; int32, or int64 for tensors of 2³¹ entries and more.
        shape: of the result.
    """
    kernel = _kernel("sparsify_fx_place", values, places)
    if kernel is None:
        dense, flat = values.new_zeros(shape), values.reshape(-1)[: places.numel()]
        dense.view(-1).index_copy_(0, places.long(), flat)
        return dense
    values, dense = values.contiguous(), values.new_empty(shape)
    kernel(
        values.data_ptr(),
        places.data_ptr(),
        places.numel(),
        dense.data_ptr(),
        dense.numel(),
        values.element_size(),
        torch.get_num_threads(),
    )
    return dense


def picked(dense: Tensor, places: Tensor, into: Tensor, origin: int = 0) -> Tensor:
    """Write the entries of `dense` at `places` of its flattened form to the beginning of a vector, and return it.

    Args:
        into: at least as long as `places`, contiguous; what is behind them stays.
        origin: the place of the first entry of `dense`, where that is a part of a larger tensor.
    """
    kernel = _kernel("sparsify_fx_pick", dense, places)
    if kernel is None:
        torch.index_select(
            dense.reshape(-1), 0, places - origin, out=into[: places.numel()]
        )
        return into
    dense = dense.contiguous()
    kernel(
        dense.data_ptr(),
        origin,
        dense.numel(),
        places.data_ptr(),
        places.numel(),
        into.data_ptr(),
        into.element_size(),
        torch.get_num_threads(),
    )
    return into


def _kernel(name: str, tensor: Tensor, places: Tensor) -> _Function | None:
    """The function of the library, or None where torch's operators have to do it."""
    fits = (
        tensor.device.type == "cpu"
        and places.dtype == torch.int32
        and places.is_contiguous()
        and tensor.element_size() in _SIZES
        and not tensor.is_complex()
    )
    return _function(name) if fits else None


@functools.cache
def _function(name: str) -> _Function | None:
    library = loaded()
    # A library that was built before there were these kernels is no reason to fail.
    if library is None or not hasattr(library, name):
        return None
    function = getattr(library, name)
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    function.restype = None
    function.argtypes = (
        [pointer, pointer, number, pointer, number, number, number]
        if name == "sparsify_fx_place"
        else [pointer, number, number, pointer, number, pointer, number, number]
    )
    found: _Function = function
    return found
