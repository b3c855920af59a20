"""Random layers on padded planes: chains of convolutions, sums, and halved images, in one band and in many."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.runtime.random_layers import Case, finish, sparse


def random_chain(random: np.random.Generator) -> Case:
    """A 1x1 or 3x3 convolution, and often another one after it, which reads what the first one's bands hold."""
    size = [int(random.integers(1, random.choice([6, 20, 60]))) for _ in range(2)]
    first = _conv(random, int(random.integers(1, 4)), int(random.integers(1, 40)), size)
    if random.random() < 0.3:
        return first
    images, channels, *after = output_shape(first)
    second = _conv(random, images, channels, after)
    return replace(first, second=replace(second, residual=None))


def random_planes_sum(random: np.random.Generator) -> Case:
    """Two 1x1 convolutions with results of the same shape, and their sum."""
    images, size = (
        int(random.integers(1, 4)),
        random.integers(1, random.choice([6, 40]), 2),
    )
    outputs = int(random.choice([random.integers(1, 30), random.integers(100, 300)]))
    cases = []
    for _ in range(2):
        stride = int(random.integers(1, 3))
        side = (size - 1) * stride + 1 + random.integers(0, stride, 2)
        x = random.standard_normal(
            (images, int(random.integers(1, 90)), *side.tolist()), np.float32
        )
        weight = sparse(random, (outputs, x.shape[1], 1, 1))
        attributes: dict[str, object] = {"strides": [stride, stride]}
        cases.append(
            finish(
                "Conv", random, x, weight, (images, outputs, *size.tolist()), attributes
            )
        )
    second = replace(cases[1], residual=None, activation="")
    return replace(
        cases[0],
        kind="ConvSum",
        residual=second.x,
        packed=True,
        padded=True,
        second=second,
    )


def random_halves(random: np.random.Generator) -> Case:
    """Every second pixel, with channels of zeros around."""
    shape = [*random.integers(1, 9, 2), *random.integers(1, random.choice([6, 60]), 2)]
    before, behind = (int(each) for each in random.integers(0, 9, 2))
    x = random.standard_normal(shape, np.float32)
    empty = np.zeros(0, np.float32)
    return Case(
        "Halves",
        x,
        empty,
        None,
        None,
        {"before": before, "behind": behind},
        "",
        False,
        padded=True,
    )


def output_shape(case: Case) -> tuple[int, ...]:
    """Of a convolution on planes."""
    stride = case.attributes["strides"][0]  # type: ignore[index]
    images, _, *size = case.x.shape
    return (images, case.weight.shape[0], *(-(-side // stride) for side in size))


def _conv(
    random: np.random.Generator, images: int, channels: int, size: list[int]
) -> Case:
    side, stride = int(random.choice([1, 3])), int(random.choice([1, 1, 2]))
    outputs = int(random.choice([random.integers(1, 40), random.integers(100, 300)]))
    x = random.standard_normal((images, channels, *size), np.float32)
    attributes = {"strides": [stride, stride], "pads": [side // 2] * 4}
    # Of a size that keeps the results near one: two layers of large sums would be told apart by rounding.
    weight = sparse(random, (outputs, channels, side, side)) / np.float32(
        np.sqrt(channels * side * side)
    )
    case = Case("Conv", x, weight, None, None, attributes, "", False)
    return replace(
        finish("Conv", random, x, weight, output_shape(case), attributes), padded=True
    )


def on_planes(
    nodes: list[onnx.NodeProto], case: Case, tag: str
) -> list[onnx.NodeProto]:
    """Our operators between copies to planes and back, each with edges where the next one reads them."""
    chain = case.second is not None and case.kind == "Conv"
    between = chain and case.second is not None and case.second.weight.shape[-1] > 1
    reads = {f"x{tag}": case.weight.ndim > 1 and case.weight.shape[-1] > 1}
    reads |= {f"z{tag}": between} if case.residual is not None else {}
    given = list(reads)
    padded = [_pad(name, edges) for name, edges in reads.items()]
    for number, node in enumerate(nodes):
        inputs = [f"{name}p" if name in given else name for name in node.input]
        del node.input[:]
        node.input.extend(inputs)
        edges = {"edges": 1} if between and number == 0 else {}
        node.attribute.extend(
            helper.make_attribute(name, value)
            for name, value in {"padded": 1, **edges}.items()
        )
    last = nodes[-1].output[0]
    nodes[-1].output[0] = f"{last}p"
    return [
        *padded,
        *nodes,
        helper.make_node("UnpadPlanes", [f"{last}p"], [last], domain="sparsify_fx"),
    ]


def halves_nodes(
    case: Case, tag: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Halves in standard operators."""
    pads = [0, case.attributes["before"], 0, 0, 0, case.attributes["behind"], 0, 0]
    limits = {
        "starts": [0, 0],
        "ends": [2**31 - 1] * 2,
        "axes": [2, 3],
        "steps": [2, 2],
        "pads": pads,
    }
    constants = [
        numpy_helper.from_array(np.array(values), name + tag)
        for name, values in limits.items()
    ]
    names = [tensor.name for tensor in constants]
    nodes = [helper.make_node("Slice", [f"x{tag}", *names[:4]], [f"sliced{tag}"])]
    return [
        *nodes,
        helper.make_node("Pad", [f"sliced{tag}", names[4]], [f"y{tag}"]),
    ], constants


def _pad(name: str, edges: bool) -> onnx.NodeProto:
    return helper.make_node(
        "PadPlanes",
        [name],
        [f"{name}p"],
        domain="sparsify_fx",
        **({"edges": 1} if edges else {}),
    )
