"""Random small networks with random dead channels, as ONNX graphs: the same seed, the same bits."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.passes.onnx_graph.common import Array

ACTIVATIONS = ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSwish", "Identity")


@dataclass
class Builder:
    """A graph that grows; `maps` are the feature maps so far: name -> (channels, side)."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)
    maps: dict[str, tuple[int, int]] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)

    def constant(self, values: Array) -> str:
        name = f"c{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def add(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def weight(self, *shape: int, scale: float = 0.5) -> Array:
        """Normal, with a random share of dead rows and columns, and of single zeros."""
        values = self.rng.normal(0, scale, shape).astype(np.float32)
        dead_rows, dead_columns, zeros = self.rng.choice(
            [0.0, 0.2, 0.5, 0.9], 3, p=[0.6, 0.25, 0.12, 0.03]
        )
        values[self.rng.random(shape[0]) < dead_rows] = 0
        values[:, self.rng.random(shape[1]) < dead_columns] = 0
        values[self.rng.random(shape) < zeros] *= 0
        return values

    def bias(self, size: int) -> Array:
        """Normal, zero, or negative, which ReLU makes zero."""
        return (self.rng.normal(0, 1, size) * self.rng.integers(0, 2, size)).astype(
            np.float32
        )

    def pick(self) -> str:
        """One of the last feature maps."""
        names = list(self.maps)
        return names[-1 - int(self.rng.integers(min(3, len(names))))]

    def put(self, name: str, channels: int, side: int) -> None:
        """Note a feature map; now and then it becomes a graph output as well."""
        self.maps[name] = (channels, side)
        if self.rng.random() < 0.03:
            self.outputs.append(name)


def conv(b: Builder, depthwise: bool = False, groups: int = 1) -> None:
    x = b.pick()
    channels, side = b.maps[x]
    kernel = int(b.rng.choice([1, 3])) if side >= 3 else 1
    pad = int(b.rng.integers(2)) * (kernel // 2)
    stride = int(b.rng.choice([1, 1, 2]))
    if depthwise:
        groups, out = channels, channels * int(b.rng.choice([1, 2]))
    elif channels % groups:
        return
    else:
        out = groups * int(b.rng.integers(2, 6))
    inputs = [x, b.constant(b.weight(out, channels // groups, kernel, kernel))]
    if b.rng.random() < 0.6:
        inputs.append(b.constant(b.bias(out)))
    name = b.add(
        "Conv",
        *inputs,
        group=groups,
        pads=[pad] * 4,
        strides=[stride] * 2,
        kernel_shape=[kernel] * 2,
    )
    b.put(name, out, (side + 2 * pad - kernel) // stride + 1)


def transposed(b: Builder) -> None:
    x = b.pick()
    channels, side = b.maps[x]
    if side > 8:
        return
    out = int(b.rng.integers(2, 6))
    inputs = [x, b.constant(b.weight(channels, out, 2, 2)), b.constant(b.bias(out))]
    b.put(
        b.add("ConvTranspose", *inputs, strides=[2, 2], kernel_shape=[2, 2]),
        out,
        2 * side,
    )


def norm(b: Builder) -> None:
    x = b.pick()
    channels, side = b.maps[x]
    gamma = b.rng.normal(0, 1, channels) * (b.rng.random(channels) > 0.1)
    vectors = (
        gamma,
        b.bias(channels),
        b.rng.normal(0, 1, channels),
        b.rng.random(channels) + 0.1,
    )
    names = [b.constant(vector.astype(np.float32)) for vector in vectors]
    b.put(b.add("BatchNormalization", x, *names), channels, side)


def activation(b: Builder) -> None:
    x = b.pick()
    b.put(b.add(str(b.rng.choice(ACTIVATIONS)), x), *b.maps[x])


def pool(b: Builder) -> None:
    x = b.pick()
    channels, side = b.maps[x]
    if side < 4:
        return
    pad = int(b.rng.integers(2))
    attributes = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [pad] * 4}
    kind = str(b.rng.choice(["MaxPool", "AveragePool"]))
    if kind == "AveragePool":
        attributes["count_include_pad"] = int(b.rng.integers(2))
    b.put(b.add(kind, x, **attributes), channels, (side + 2 * pad - 3) // 2 + 1)


def combine(b: Builder) -> None:
    """A sum or product of two maps of one shape; a 1x1 convolution makes the shapes agree where they do not."""
    x = b.pick()
    channels, side = b.maps[x]
    twins = [
        name
        for name, shape in b.maps.items()
        if shape == (channels, side) and name != x
    ]
    if twins and b.rng.random() < 0.6:
        other = str(b.rng.choice(twins))
    else:
        same = [name for name, (_, size) in b.maps.items() if size == side]
        source = str(b.rng.choice(same))
        weight = b.constant(b.weight(channels, b.maps[source][0], 1, 1))
        other = b.add("Conv", source, weight, b.constant(b.bias(channels)))
    b.put(
        b.add(str(b.rng.choice(["Add", "Add", "Mul", "Sub", "Max"])), x, other),
        channels,
        side,
    )


def concat(b: Builder) -> None:
    x = b.pick()
    channels, side = b.maps[x]
    same = [name for name, (_, size) in b.maps.items() if size == side]
    other = str(b.rng.choice(same))
    if channels + b.maps[other][0] <= 24:
        b.put(b.add("Concat", x, other, axis=1), channels + b.maps[other][0], side)


def gate(b: Builder) -> None:
    """Squeeze and excitation."""
    x = b.pick()
    channels, side = b.maps[x]
    squeezed = b.add("GlobalAveragePool", x)
    inner = b.add(
        "Relu",
        b.add(
            "Conv",
            squeezed,
            b.constant(b.weight(3, channels, 1, 1)),
            b.constant(b.bias(3)),
        ),
    )
    outer = b.add(
        "Conv",
        inner,
        b.constant(b.weight(channels, 3, 1, 1)),
        b.constant(b.bias(channels)),
    )
    b.put(b.add("Mul", x, b.add("Sigmoid", outer)), channels, side)


def channel_pad(b: Builder) -> None:
    """The parameter-free shortcut of small ResNets."""
    x = b.pick()
    channels, side = b.maps[x]
    if channels <= 12:
        pads = b.constant(np.array([0, 1, 0, 0, 0, 2, 0, 0], np.int64))
        b.put(b.add("Pad", x, pads), channels + 3, side)


def split(b: Builder) -> None:
    x = b.pick()
    channels, side = b.maps[x]
    if channels < 3:
        return
    cut = int(b.rng.integers(1, channels))
    names = [f"v{len(b.nodes)}", f"v{len(b.nodes)}b"]
    b.nodes.append(
        helper.make_node(
            "Split",
            [x, b.constant(np.array([cut, channels - cut], np.int64))],
            names,
            axis=1,
        )
    )
    b.put(names[0], cut, side)
    b.put(names[1], channels - cut, side)


def group_norm(b: Builder) -> None:
    """An operator that the passes must respect."""
    x = b.pick()
    channels, side = b.maps[x]
    if channels > 1:
        vectors = [b.constant(b.bias(channels)) for _ in range(2)]
        b.put(b.add("InstanceNormalization", x, *vectors), channels, side)


def grouped(b: Builder) -> None:
    conv(b, groups=2)


def depthwise(b: Builder) -> None:
    conv(b, depthwise=True)


PARTS = (
    *((conv,) * 5),
    *((norm, activation, activation, depthwise, grouped, combine, combine)),
    *((concat, pool, gate, channel_pad, split, transposed, group_norm)),
)


def head(b: Builder, x: str) -> str:
    """Flatten or average, then two or three linear layers."""
    channels, side = b.maps[x]
    kind = int(b.rng.integers(3))
    if kind == 0:
        flat, size = b.add("Flatten", x, axis=1), channels * side * side
    elif kind == 1:
        target = b.constant(np.array([-1, channels * side * side], np.int64))
        flat, size = b.add("Reshape", x, target), channels * side * side
    else:
        axes = b.constant(np.array([2, 3], np.int64))
        flat, size = b.add("ReduceMean", x, axes, keepdims=0), channels
    for width in (int(b.rng.integers(3, 9)), int(b.rng.integers(2, 9))):
        flat = linear(b, flat, size, width)
        size = width
        if b.rng.random() < 0.7:
            flat = b.add(str(b.rng.choice(ACTIVATIONS[:4])), flat)
    return linear(b, flat, size, 4)


def linear(b: Builder, x: str, size: int, width: int) -> str:
    """Gemm with either layout of its weight, or MatMul and Add."""
    weight = b.weight(width, size, scale=size**-0.5)
    kind = int(b.rng.integers(3))
    if kind == 0:
        return b.add("Gemm", x, b.constant(weight), b.constant(b.bias(width)), transB=1)
    if kind == 1:
        return b.add("Gemm", x, b.constant(weight.T), b.constant(b.bias(width)))
    product = b.add("MatMul", x, b.constant(weight.T))
    return (
        b.add("Add", product, b.constant(b.bias(width)))
        if b.rng.random() < 0.7
        else product
    )


def random_model(seed: int) -> onnx.ModelProto:
    """A model with 6 to 16 parts on [N, 3, 9, 9] inputs, 4 logits, now and then further outputs."""
    b = Builder(np.random.default_rng(seed))
    b.maps["x"] = (3, 9)
    conv(b)
    for _ in range(int(b.rng.integers(5, 16))):
        b.rng.choice(np.array(PARTS, object))(b)
    last = head(b, list(b.maps)[-1])
    shapes = {last: ["N", 4]} | {
        name: ["N", b.maps[name][0], b.maps[name][1], b.maps[name][1]]
        for name in b.outputs
    }
    graph = helper.make_graph(
        b.nodes,
        f"random_{seed}",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, 9, 9])],
        [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
            for name, shape in shapes.items()
        ],
        b.tensors,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    )
    onnx.checker.check_model(model, full_check=True)
    return model
