"""Random layers of every kind that the sparse operators compute."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

DENSITIES = (0.0, 0.02, 0.1, 0.3, 1.0)
ACTIVATIONS = ("", "Relu", "Relu6", "Silu", "Gelu")


@dataclass(frozen=True)
class Case:
    """One layer: dense weights, and everything else that the sparse and the dense operator share."""

    kind: str  # "Conv", "MatMul", "MaxPool", "ConvSum", "Attention", "Mlp" or "Halves"
    x: Floats
    weight: Floats
    bias: Floats | None
    residual: Floats | None
    attributes: dict[str, object]
    activation: str
    packed: bool
    second: Case | None = None
    """A depthwise convolution or pooling that reads the result, for a joined operator; its `x` is not used.

    Of a ConvSum: the projection that is added, whose input is the residual. On planes: any convolution.
    """
    padded: bool = False
    """Computed on padded planes."""
    norm: tuple[int, float, bool] | None = None
    """Of a product: a normalization before it, drawn from this seed, with this epsilon, and with a shift or without."""


def random_conv(random: np.random.Generator) -> Case:
    """Any kernel, stride, padding, dilation, groups and batch; one or two dimensions."""
    rank = int(random.choice([1, 2, 2, 2]))
    group = int(random.choice([1, 1, 2, 3]))
    channels, outputs = (int(random.integers(1, limit)) * group for limit in (12, 30))
    kernel, strides, dilations = (
        random.integers(1, limit, rank) for limit in (5, 4, 3)
    )
    pads = random.integers(0, 4, 2 * rank)
    least = np.maximum(1, dilations * (kernel - 1) + 1 - pads[:rank] - pads[rank:])
    size = [int(random.integers(low, low + 24)) for low in least]
    x = random.standard_normal(
        (int(random.integers(1, 4)), channels, *size), np.float32
    )
    weight = sparse(random, (outputs, channels // group, *kernel))
    out = (
        np.array(size) + pads[:rank] + pads[rank:] - dilations * (kernel - 1) - 1
    ) // strides + 1
    attributes = {
        "strides": strides.tolist(),
        "pads": pads.tolist(),
        "dilations": dilations.tolist(),
        "group": group,
    }
    return finish(
        "Conv", random, x, weight, (x.shape[0], outputs, *out.tolist()), attributes
    )


def random_depthwise(random: np.random.Generator, channels: int = 0) -> Case:
    """A channel to a group, kernels of 3, 5 and 7, strides of 1 and 2, any padding; lines of up to many vectors."""
    channels = channels or int(random.integers(1, 20))
    side = int(random.choice([3, 3, 5, 7]))
    strides, pads = random.integers(1, 3, 2), random.integers(0, 5, 4)
    least = np.maximum(1, side - pads[:2] - pads[2:])
    size = [
        int(random.integers(low, low + random.choice([8, 30, 70]))) for low in least
    ]
    x = random.standard_normal(
        (int(random.integers(1, 4)), channels, *size), np.float32
    )
    weight = sparse(random, (channels, 1, side, side))
    out = (np.array(size) + pads[:2] + pads[2:] - side) // strides + 1
    attributes = {"strides": strides.tolist(), "pads": pads.tolist(), "group": channels}
    return finish(
        "Conv", random, x, weight, (x.shape[0], channels, *out.tolist()), attributes
    )


def random_joined(random: np.random.Generator) -> Case:
    """A 1x1 convolution with `random_depthwise` after it."""
    outputs = int(random.choice([random.integers(1, 20), random.integers(60, 140)]))
    second = random_depthwise(random, outputs)
    channels = int(random.integers(1, 30))
    x = random.standard_normal(
        (second.x.shape[0], channels, *second.x.shape[2:]), np.float32
    )
    first = finish(
        "Conv", random, x, sparse(random, (outputs, channels, 1, 1)), second.x.shape, {}
    )
    return replace(
        first, residual=None, packed=True, second=replace(second, residual=None)
    )


def random_sum(random: np.random.Generator) -> Case:
    """Two 1x1 convolutions of any strides with results of the same shape, and their sum."""
    images, outputs = (
        int(random.integers(1, 4)),
        int(random.choice([random.integers(1, 30), random.integers(100, 300)])),
    )
    size = random.integers(1, random.choice([6, 30]), 2)
    cases = []
    for _ in range(2):
        strides, channels = random.choice([1, 1, 2, 3], 2), int(random.integers(1, 90))
        side = (size - 1) * strides + 1 + random.integers(0, strides)
        x = random.standard_normal((images, channels, *side.tolist()), np.float32)
        weight = sparse(random, (outputs, channels, 1, 1))
        cases.append(
            finish(
                "Conv",
                random,
                x,
                weight,
                (images, outputs, *size.tolist()),
                {"strides": strides.tolist()},
            )
        )
    second = replace(cases[1], residual=None, activation="")
    return replace(
        cases[0], kind="ConvSum", residual=second.x, packed=True, second=second
    )


def random_pool(random: np.random.Generator) -> Case:
    """The maximum of 2 or 3 pixels square, at any stride and padding that ours takes; mostly negative values."""
    side = int(random.integers(2, 4))
    size = [
        int(random.integers(side, side + random.choice([8, 30, 70]))) for _ in range(2)
    ]
    x = random.standard_normal((*random.integers(1, 9, 2), *size), np.float32) - 3
    strides, pads = (
        random.integers(1, 3, 2).tolist(),
        random.integers(0, side, 4).tolist(),
    )
    attributes = {"kernel_shape": [side, side], "strides": strides, "pads": pads}
    return Case(
        "MaxPool", x, np.zeros(0, np.float32), None, None, attributes, "", False
    )


def random_pooled(random: np.random.Generator) -> Case:
    """A convolution in two dimensions with `random_pool` after it; lines of many vectors, in many bands."""
    pool = random_pool(random)
    channels = int(random.integers(1, 9))
    outputs = int(random.choice([random.integers(1, 20), random.integers(30, 80)]))
    kernel, strides, dilations = (
        random.integers(1, 8, 2),
        random.integers(1, 4, 2),
        random.integers(1, 3, 2),
    )
    pads = random.integers(0, 4, 4)
    # The result has at least one window of the pooling.
    reach = dilations * (kernel - 1) + 1 + 2 * strides
    least = np.maximum(1, reach - pads[:2] - pads[2:])
    size = [
        int(random.integers(low, low + random.choice([8, 30, 130]))) for low in least
    ]
    x = random.standard_normal(
        (int(random.integers(1, 4)), channels, *size), np.float32
    )
    weight = sparse(random, (outputs, channels, *kernel))
    attributes = {
        "strides": strides.tolist(),
        "pads": pads.tolist(),
        "dilations": dilations.tolist(),
        "group": 1,
    }
    first = finish("Conv", random, x, weight, (0, outputs, 0, 0), attributes)
    return replace(first, residual=None, second=pool)


def random_matmul(random: np.random.Generator) -> Case:
    """Activations of one to four dimensions, a weight in either order."""
    inner, outer = (int(random.integers(1, 150)) for _ in range(2))
    leading = [int(random.integers(1, 20)) for _ in range(int(random.integers(0, 4)))]
    flip = int(random.integers(0, 2))
    weight = sparse(random, (outer, inner) if flip else (inner, outer))
    x = random.standard_normal((*leading, inner), np.float32)
    return finish("MatMul", random, x, weight, (*leading, outer), {"transB": flip})


def random_attention(random: np.random.Generator) -> Case:
    """Any numbers of images, tokens, heads and floats, tokens or images first; some scores so large that one is all."""
    images, heads = random.integers(1, 4, 2).tolist()
    size = int(
        random.choice([random.integers(1, 20), random.integers(30, 140), 32, 64])
    )
    tokens = int(random.choice([random.integers(1, 20), random.integers(60, 300)]))
    flip = int(random.integers(0, 2))
    shape = (
        (tokens, images, 3 * heads * size)
        if flip
        else (images, tokens, 3 * heads * size)
    )
    x = random.standard_normal(shape, np.float32)
    scales = (random.choice([0.1, 1.0, 3.0]) * random.uniform(0.2, 1.0, 3)).tolist()
    attributes = {
        "heads": heads,
        "head_size": size,
        "tokens_first": flip,
        "scales": [*scales[:2], scales[2] / size],
    }
    return Case(
        "Attention", x, np.zeros(0, np.float32), None, None, attributes, "", False
    )


def sparse(random: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Normal weights at a density of 0 to 1, with some rows empty."""
    weight = random.standard_normal(shape, np.float32)
    weight *= random.random(shape) < random.choice(DENSITIES)
    if random.random() < 0.3:
        weight[random.random(shape[0]) < 0.5] = 0
    return weight


def finish(
    kind: str,
    random: np.random.Generator,
    x: Floats,
    weight: Floats,
    out: tuple[int, ...],
    attributes: dict[str, object],
) -> Case:
    """The case with or without a bias, something added and an activation, as drawn."""
    rows = out[1] if kind == "Conv" else out[-1]
    bias = random.standard_normal(rows, np.float32) if random.random() < 0.7 else None
    residual = (
        random.standard_normal(out, np.float32) if random.random() < 0.4 else None
    )
    activation = str(random.choice(ACTIVATIONS))
    return Case(
        kind,
        x,
        weight,
        bias,
        residual,
        attributes,
        activation,
        bool(random.random() < 0.5),
    )
