"""Random convolutions for the kernels of sparse training, compared with double precision.

    python -m tests.living.random_products 1000 [FIRST SEED [LIBRARY]]

LIBRARY is another build of the kernels.
"""

from __future__ import annotations

import ctypes
import functools
import random
import sys
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sparsify_fx.living.place import place, places_of
from sparsify_fx.living.products import native
from sparsify_fx.living.products.native import layer_of
from sparsify_fx.living.products.shapes import Shape, Window, shape_of

# Of the largest entry of a result, which is at least 1: sums of up to some thousand products in single precision, and
# half a last place of bfloat16.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2**-8 + 1e-5}


@dataclass(frozen=True)
class Product:
    """A convolution with all that it is given, and the gradient of its result."""

    inputs: Tensor
    values: Tensor
    factor: Tensor | None
    places: Tensor
    mask: Tensor
    bias: Tensor | None
    window: Window
    gradient: Tensor

    @property
    def shape(self) -> Shape:
        return shape_of(self.inputs.shape, tuple(self.mask.shape), self.window)


def random_product(seed: int) -> Product:
    """Any stride, padding, dilation and groups, any number of images, at densities from 0 to 1."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    groups = draw.choice([1, 1, 1, 2, 3, 8])
    channels, rows = draw.choice([1, 2, 5, 16, 40]), draw.choice([1, 2, 7, 16, 33])
    kernel, stride, dilation = (
        [draw.randint(1, most) for _ in range(2)] for most in (4, 3, 3)
    )
    padding = [draw.randint(0, 3) for _ in range(2)]
    least = [
        max(1, d * (k - 1) + 1 - 2 * p)
        for d, k, p in zip(dilation, kernel, padding, strict=True)
    ]
    sides = [side + draw.choice([0, 1, 2, 5, 13]) for side in least]
    if draw.random() < 0.2:
        kernel, stride, dilation, padding, sides = [1, 1], [1, 1], [1, 1], [0, 0], [1, 1]  # fmt: skip
    window = Window(tuple(stride), tuple(padding), tuple(dilation), groups)  # type: ignore[arg-type]
    images = draw.choice([1, 3, 7, 8, 16, 24, 33, 64])
    inputs = torch.randn(images, channels * groups, *sides)
    mask = torch.rand(rows * groups, channels, *kernel) < draw.choice(
        [0, 0.02, 0.1, 0.3, 1]
    )
    places = places_of(mask.to(torch.uint8))
    values = torch.randn(len(places))
    factor = torch.randn(len(places)) if draw.random() < 0.3 else None
    bias = torch.randn(len(mask)) if draw.random() < 0.5 else None
    out = shape_of(inputs.shape, tuple(mask.shape), window).output
    gradient = torch.randn(out)
    inputs, gradient = (
        beside(each) if draw.random() < 0.5 else each for each in (inputs, gradient)
    )
    if draw.random() < 0.3:
        inputs, gradient = inputs.bfloat16(), gradient.bfloat16()
    return Product(
        inputs, values, factor, places, mask.to(torch.uint8), bias, window, gradient
    )


def beside(images: Tensor) -> Tensor:
    """The same images side by side in memory."""
    return images.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)


def by_kernels(given: Product) -> list[Tensor]:
    """The result, and the gradients of inputs, values and factor."""
    layer = layer_of(given.places, given.shape)
    weight = given.values, given.factor
    made = layer.forward(given.inputs, *weight, given.bias, True)
    found = layer.backward(given.gradient, given.inputs, *weight, True, True)
    return [made, *(each for each in found if each is not None)]


def by_torch(given: Product) -> list[Tensor]:
    """The same in double precision, with a dense weight."""
    leaves = [
        each.double().requires_grad_()
        for each in (given.inputs, given.values, given.factor)
        if each is not None
    ]
    inputs, values, *factor = leaves
    whole = place(values, given.places, given.mask, *factor)
    bias = None if given.bias is None else given.bias.double()
    made = F.conv2d(inputs, whole, bias, *given.window)
    found = torch.autograd.grad(made, leaves, given.gradient.double())
    return [made.detach(), *found]


def error(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, over the largest entry where that is more than 1."""
    if not wanted.numel():
        return 0.0
    scale = max(1.0, float(wanted.abs().max()))
    return float((found.double() - wanted).abs().max()) / scale


def worst(seed: int) -> float:
    """The largest error of a random product, as a share of what its dtype allows."""
    given = random_product(seed)
    pairs = zip(by_kernels(given), by_torch(given), strict=True)
    return max(
        error(found, wanted) / TOLERANCES[found.dtype] for found, wanted in pairs
    )


def main(count: str = "1000", first: str = "0", library: str = "") -> None:
    if library:
        native.loaded = functools.lru_cache(lambda: ctypes.CDLL(library))
    torch.set_num_threads(2)
    for seed in range(int(first), int(first) + int(count)):
        found = worst(seed)
        assert found <= 1, (seed, found)
    print(f"{count} random layers from seed {first} on agree")


if __name__ == "__main__":
    main(*sys.argv[1:])
