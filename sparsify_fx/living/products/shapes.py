"""The sizes of a layer and of what it is given, and how images lie in memory."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Shape(NamedTuple):
    """A convolution in two dimensions with its input, in the order that the kernels want.

    A linear layer has kernels and sides of 1, and its images are the rows of its input.
    """

    images: int
    channels: int
    height: int
    width: int
    rows: int
    kernel_y: int
    kernel_x: int
    stride_y: int
    stride_x: int
    dilation_y: int
    dilation_x: int
    pad_y: int
    pad_x: int
    groups: int
    out_height: int
    out_width: int

    @property
    def output(self) -> tuple[int, int, int, int]:
        """The shape of the result."""
        return self.images, self.rows, self.out_height, self.out_width

    @property
    def weight(self) -> tuple[int, int, int, int]:
        """The shape of the weight."""
        channels = self.channels // self.groups
        return self.rows, channels, self.kernel_y, self.kernel_x


class Window(NamedTuple):
    """How a convolution goes over its input; the defaults are those of a linear layer."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


def sizes_of(weight: Tensor) -> tuple[int, ...]:
    """The shape of a weight, of a mask too, in two dimensions.

    >>> sizes_of(torch.ones(4, 3, 5)), sizes_of(torch.ones(4, 3))
    ((4, 3, 1, 5), (4, 3, 1, 1))
    """
    if weight.dim() == 4:
        return tuple(weight.shape)
    rows, channels, *kernel = weight.shape
    return (rows, channels, 1, *(kernel or (1,)))


def shape_of(inputs: tuple[int, ...], weight: tuple[int, ...], window: Window) -> Shape:
    """The shape for inputs [n, c, h, w] and a weight [o, c / groups, ky, kx].

        out = ⌊(side + 2 padding − dilation (kernel − 1) − 1) / stride⌋ + 1

    >>> shape_of((2, 3, 8, 8), (4, 3, 3, 3), Window(padding=(1, 1))).output
    (2, 4, 8, 8)
    """
    images, channels, *sides = inputs
    rows, _, *kernel = weight
    out = [
        (side + 2 * pad - dilation * (size - 1) - 1) // stride + 1
        for side, size, stride, pad, dilation in zip(
            sides, kernel, *window[:3], strict=True
        )
    ]
    return Shape._make(
        (
            images, channels, *sides, rows, *kernel, *window.stride, *window.dilation, *window.padding, window.groups,
            *out,
        )
    )  # fmt: skip


# Places in a block of images, of which there are 96 at most, and in the images have 32 bits.
_MOST_PLACES, _MOST_IN_BLOCK, _MOST_LENGTH = 2**31 - 1, 96, 2**24


def fits(shape: Shape) -> bool:
    """Whether the kernels have room for a layer, by a bound a little below what they take.

    Arithmetic alone, which compilers can follow.

    >>> fits(Shape(1, 64, 56, 56, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1, 56, 56))
    True
    >>> fits(Shape(1, 64, 608, 608, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1, 608, 608))
    False
    """
    edge_y = 2 * (shape.pad_y + shape.kernel_y * shape.dilation_y + shape.stride_y)
    edge_x = 2 * (shape.pad_x + shape.kernel_x * shape.dilation_x + shape.stride_x)
    read = (shape.height + edge_y) * (shape.width + edge_x)
    written = (shape.out_height + edge_y) * (shape.out_width + edge_x)
    block = max(shape.channels * read, shape.rows * written) * _MOST_IN_BLOCK
    images = max(read, written) * (shape.images + _MOST_IN_BLOCK)
    longest = max(shape.height + edge_y, shape.width + edge_x)
    return longest <= _MOST_LENGTH and max(block, images) <= _MOST_PLACES


def lies_side_by_side(tensor: Tensor) -> bool:
    """Whether entries of neighboring images are neighbors in memory: the strides of [n, c, h, w] are (1, hwn, wn, n).

    Kernels read such a tensor without packing it. Sums and activations of torch keep these strides.

    >>> lies_side_by_side(side_by_side((2, 3, 4, 4))), lies_side_by_side(torch.empty(2, 3, 4, 4))
    (True, False)
    """
    return tensor.permute(1, 2, 3, 0).is_contiguous()


def side_by_side(sizes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """An empty tensor of these sizes [n, c, h, w] whose images lie side by side."""
    images, _, height, width = sizes
    # No view of another tensor, into which autograd would let nobody write.
    strides = (1, height * width * images, width * images, images)
    return torch.empty_strided(sizes, strides, dtype=dtype, device="cpu")
