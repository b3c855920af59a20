"""Sparse layers of the C++ library: one for the places of a weight and the shape of its input."""

from __future__ import annotations

import ctypes
import functools
import weakref
from typing import Any

import torch
from torch import Tensor

from sparsify_fx.errors import RuntimeLibraryError
from sparsify_fx.living.native import KINDS, MISSING, loaded
from sparsify_fx.living.products.shapes import (
    Shape,
    lies_side_by_side,
    side_by_side,
)
from sparsify_fx.living.remembered import Remembered

# Layers that are kept for one weight: trainings with images of several sizes come back to each.
_MOST_SHAPES = 8
# The arguments of each function of runtime/csrc/training/api.cpp: p a pointer, n a number.
_ARGUMENTS = {
    "sparsify_fx_layer_images": "pp",
    "sparsify_fx_layer": "ppnp",
    "sparsify_fx_layer_free": "p",
    "sparsify_fx_layer_forward": "pppnpnppnn",
    "sparsify_fx_layer_backward": "pppnpnpnpnppn",
    "sparsify_fx_norm_moments": "npnnppppn",
    "sparsify_fx_norm_forward": "npnnpppppn",
    "sparsify_fx_norm_backward": "nppnnpppnpppn",
}
# What images may be made of, as bfloat16.h numbers them; weights, biases and their gradients are float32.
TYPES = {torch.float32: 0, torch.bfloat16: 1}
_LAYERS: Remembered[dict[Shape, SparseLayer]] = Remembered()


class SparseLayer:
    """The non-zeros of a weight in the order in which they are multiplied, for one shape.

    It is made of the places of living entries alone; values are given in every call.

    Raises RuntimeLibraryError without the compiled kernels, and ValueError for a shape that they do not take.
    """

    def __init__(self, shape: Shape, places: Tensor) -> None:
        handle = ctypes.c_void_p()
        sizes = _sizes(shape)
        made = ctypes.cast(ctypes.byref(handle), ctypes.c_void_p)
        _checked(
            _function("sparsify_fx_layer")(
                sizes, places.data_ptr(), places.numel(), made
            )
        )
        self.shape, self._handle = shape, handle.value
        self.full = fills_blocks(shape)
        self.living = places.numel()
        weakref.finalize(self, _function("sparsify_fx_layer_free"), self._handle)

    def forward(
        self,
        inputs: Tensor,
        values: Tensor,
        factor: Tensor | None,
        bias: Tensor | None,
        wanted_side_by_side: bool,
    ) -> Tensor:
        """The convolution of inputs [n, c, h, w], in their dtype; with a factor the weight is values · factor.

        Args:
            wanted_side_by_side: whether images of the result shall lie so, where the kernels can.
        """
        inputs, layout = self._laid_out(inputs)
        beside = self.full and wanted_side_by_side
        made = _empty(self.shape.output, beside, inputs.dtype)
        values = values.contiguous()
        factor = None if factor is None else factor.contiguous()
        bias = None if bias is None else bias.contiguous()
        _checked(
            _function("sparsify_fx_layer_forward")(
                self._handle,
                values.data_ptr(),
                address(factor),
                TYPES[inputs.dtype],
                inputs.data_ptr(),
                layout,
                address(bias),
                made.data_ptr(),
                int(beside),
                torch.get_num_threads(),
            )
        )
        return made

    def backward(
        self,
        gradient: Tensor,
        inputs: Tensor,
        values: Tensor,
        factor: Tensor | None,
        to_input: bool,
        to_values: bool,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradients of the inputs, the values and the factor, or None where they are not wanted."""
        gradient, gradient_layout = self._laid_out(gradient.to(inputs.dtype))
        inputs, layout = self._laid_out(inputs)
        sides = (*self.shape[:4],)
        back = _empty(sides, layout == 1, inputs.dtype) if to_input else None
        values = values.contiguous()
        factor = None if factor is None else factor.contiguous()
        one = other = None
        if to_values:
            # Zeros behind the living entries where there is room.
            empty = torch.empty_like if len(values) == self.living else torch.zeros_like
            one = empty(values)
            other = None if factor is None else empty(factor)
        _checked(
            _function("sparsify_fx_layer_backward")(
                self._handle,
                values.data_ptr(),
                address(factor),
                TYPES[inputs.dtype],
                inputs.data_ptr(),
                layout,
                gradient.data_ptr(),
                gradient_layout,
                address(back),
                layout,
                address(one),
                address(other),
                torch.get_num_threads(),
            )
        )
        return back, one, other

    def _laid_out(self, tensor: Tensor) -> tuple[Tensor, int]:
        """The tensor as the kernels read it, and how it lies."""
        if self.full and lies_side_by_side(tensor):
            return tensor, 1
        return tensor.contiguous(), 0


def _empty(sizes: tuple[int, ...], beside: bool, dtype: torch.dtype) -> Tensor:
    if beside:
        return side_by_side(sizes, dtype)
    return torch.empty(sizes, dtype=dtype, device="cpu")


def layer_of(places: Tensor, shape: Shape) -> SparseLayer:
    """The layer for these places, which is made once for a shape; a mask that changes has new places."""
    shapes = _LAYERS.made(places, dict)
    found = shapes.get(shape)
    if found is None:
        while len(shapes) >= _MOST_SHAPES:
            shapes.pop(next(iter(shapes)), None)
        found = shapes[shape] = SparseLayer(shape, places.contiguous())
    return found


@functools.lru_cache(maxsize=1024)
def fills_blocks(shape: Shape) -> bool:
    """Whether images may lie side by side: other numbers of them the kernels fill up with zeros."""
    images = ctypes.c_int64()
    found = ctypes.cast(ctypes.byref(images), ctypes.c_void_p)
    _checked(_function("sparsify_fx_layer_images")(_sizes(shape), found))
    return images.value == shape.images


def _sizes(shape: Shape) -> ctypes.c_void_p:
    return ctypes.cast((ctypes.c_int64 * len(shape))(*shape), ctypes.c_void_p)


def address(tensor: Tensor | None) -> int | None:
    """Where a tensor's entries are; null for none."""
    return None if tensor is None else tensor.data_ptr()


def call(name: str, *arguments: Any) -> None:
    """One of the functions of `_ARGUMENTS`.

    Raises RuntimeLibraryError without the compiled kernels, and ValueError for what they do not take.
    """
    _checked(_function(name)(*arguments))


def _checked(problem: bytes | None) -> None:
    if problem is not None:
        raise ValueError(f"sparse kernels: {problem.decode()}")


@functools.cache
def _function(name: str) -> Any:
    library = loaded()
    if library is None or not hasattr(library, name):
        raise RuntimeLibraryError(MISSING)
    function = library[name]
    function.argtypes = [KINDS[each] for each in _ARGUMENTS[name]]
    function.restype = None if name.endswith("_free") else ctypes.c_char_p
    return function


def is_there() -> bool:
    """Whether the library has kernels for training."""
    library = loaded()
    return library is not None and hasattr(library, "sparsify_fx_norm_forward")
