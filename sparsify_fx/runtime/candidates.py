"""Layers of an ONNX model that a sparse operator can compute, and that operator as a node."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from sparsify_fx.onnx_tools.shapes import Shape
from sparsify_fx.onnx_tools.view import attribute, input_of
from sparsify_fx.runtime.fusion.fuse import Arrays, Tail

DOMAIN = "sparsify_fx"
# The sparse operator of each dense one, and the attributes that it shares.
KINDS = {"Conv": "SparseConv", "Gemm": "SparseMatMul", "MatMul": "SparseMatMul"}
SHARED = {"Conv": ("strides", "pads", "dilations", "group"), "Gemm": (), "MatMul": ()}


MOST_TAPS, MOST_LENGTH, MOST_WEIGHTS = 2**18, 2**24, 2**31
"""What the kernels take of a weight (csrc/geometry.cpp, csrc/weights.cpp): larger ones stay dense."""


@dataclass(frozen=True)
class Candidate:
    """A layer that a sparse kernel can compute: its node, its weight, and the shapes around it as far as known.

    `chained`: it could pass padded planes on to another such layer, or take them from one (`planes.pad_planes`);
    `values`: what it and the nodes give that become one operator with it; `quantized`: it lies between activations in
    8 bits, so that without a sparse operator it computes in integers.
    """

    node: NodeProto
    weight: NDArray[np.float32]
    input_shape: tuple[object, ...] | None
    output_shape: tuple[object, ...] | None
    chained: bool = False
    values: tuple[str, ...] = ()
    quantized: bool = False

    @property
    def density(self) -> float:
        """The fraction of weights that are stored: all but 0.0; -0.0 is a value like any other."""
        return (
            np.count_nonzero(np.ascontiguousarray(self.weight).view(np.uint32))
            / self.weight.size
        )


def candidate_of(
    node: NodeProto, constants: Arrays, shapes: Mapping[str, Shape]
) -> Candidate | None:
    """The node as a candidate, when its operator, its weight and its attributes are of a supported kind.

    Convolutions in one or two dimensions with explicit padding; matrix products with a constant right operand of two
    dimensions; Gemm without scaling and with a bias per column or none.
    """
    if node.op_type not in KINDS:
        return None
    weight = constants.get(input_of(node, 1))
    if (
        # A node of another domain may have the same name and do anything.
        node.domain
        or weight is None
        or weight.dtype != np.float32
        or not weight.size
        or not _fits(node, weight.shape)
    ):
        return None
    if node.op_type == "Conv":
        # With auto_pad the padding depends on the size of the input, which the kernels do
        # not work out.
        explicit = attribute(node, "auto_pad", "NOTSET") == "NOTSET"
        fits = weight.ndim in (3, 4) and explicit and _makes_sense(node, weight.shape)
    elif node.op_type == "Gemm":
        scaled = any(attribute(node, name, 1.0) != 1.0 for name in ("alpha", "beta"))
        name, columns = (
            input_of(node, 2),
            weight.shape[0 if attribute(node, "transB", 0) else 1],
        )
        # A bias that is computed, or a matrix, could not be added as one number per
        # column.
        bias = constants.get(name) if name else None
        row = not name or (bias is not None and bias.shape == (columns,))
        fits = row and not scaled and not attribute(node, "transA", 0)
    else:
        fits = node.op_type == "MatMul" and weight.ndim == 2
    return (
        Candidate(node, weight, shapes.get(node.input[0]), shapes.get(node.output[0]))
        if fits
        else None
    )


def _fits(node: NodeProto, shape: tuple[int, ...]) -> bool:
    """Whether the kernels have room for such a weight."""
    taps, channels = (
        math.prod(shape[2:]),
        shape[1] * int(attribute(node, "group", 1)) if len(shape) > 1 else 0,
    )
    most = max(*shape, channels, shape[1] * taps if len(shape) > 1 else 0)
    return most <= MOST_LENGTH and taps <= MOST_TAPS and math.prod(shape) < MOST_WEIGHTS


def _makes_sense(node: NodeProto, shape: tuple[int, ...]) -> bool:
    """Whether a convolution's attributes are ones that onnxruntime takes too: it has the word on all others."""
    axes, group = len(shape) - 2, attribute(node, "group", 1)
    steps = [attribute(node, name, [1] * axes) for name in ("strides", "dilations")]
    pads = attribute(node, "pads", [0] * 2 * axes)
    lengths = all(len(each) == axes for each in steps) and len(pads) == 2 * axes
    return (
        lengths
        and group >= 1
        and shape[0] % group == 0
        and min(*steps[0], *steps[1]) >= 1
        and min(pads) >= 0
    )


def attributes(node: NodeProto) -> dict[str, Any]:
    """The attributes of a node by name."""
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def sparse_node(layer: Candidate, tail: Tail | None = None) -> NodeProto:
    """The sparse operator for a layer and what follows it; its weight is named like the dense one, with an ending."""
    node = layer.node
    name = node.input[1]
    after = Tail((), node.output[0]) if tail is None else tail
    # Optional inputs keep their positions by empty names; those at the end are left out.
    inputs = [
        node.input[0],
        f"{name}.values",
        f"{name}.gaps",
        after.bias or input_of(node, 2),
        after.residual,
    ]
    while not inputs[-1]:
        inputs.pop()
    kind, shape = KINDS[node.op_type], layer.weight.shape
    sparse = helper.make_node(
        kind, inputs, [after.output], name=node.name, domain=DOMAIN, weight_shape=shape
    )
    sparse.attribute.extend(
        each for each in node.attribute if each.name in SHARED[node.op_type]
    )
    if node.op_type == "Gemm":
        # Always, even when 0: a SparseMatMul with transB was a Gemm, one without a MatMul.
        sparse.attribute.append(
            helper.make_attribute("transB", int(attribute(node, "transB", 0)))
        )
    if after.activation:
        sparse.attribute.append(helper.make_attribute("activation", after.activation))
    return sparse
