"""Convolutions and matrix products with constant weights, seen alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from sparsify_fx.onnx_tools.view import (
    GraphView,
    attribute,
    input_of,
    is_standard,
    set_input,
)

Array = NDArray[Any]


@dataclass(frozen=True)
class Linear:
    """A layer y = W x + b with a constant float W.

    `out_axis`, `in_axis`: where W has output and input channels, before groups are taken into account. `rank`: of the
    result, whose channels are axis 1, or the last one for MatMul. `adder`: the Add after a MatMul that is its bias.
    """

    node: onnx.NodeProto
    weight: str
    values: Array
    bias: str
    out_axis: int
    in_axis: int
    groups: int
    rank: int
    adder: onnx.NodeProto | None = None

    @property
    def last(self) -> onnx.NodeProto:
        """The node that makes the result."""
        return self.node if self.adder is None else self.adder

    @property
    def output(self) -> str:
        """The name of the result, after the bias."""
        name: str = self.last.output[0]
        return name

    @property
    def channels(self) -> int:
        """The number of output channels, of all groups."""
        # ConvTranspose keeps [inputs, outputs / groups], so its outputs are those of one group.
        size = int(self.values.shape[self.out_axis])
        return size * self.groups if self.node.op_type == "ConvTranspose" else size

    @property
    def inputs(self) -> int:
        """The number of input channels, of all groups."""
        # Conv keeps [outputs, inputs / groups]; a matrix has one group, so both are right for it.
        size = int(self.values.shape[self.in_axis])
        return size if self.node.op_type == "ConvTranspose" else size * self.groups

    @property
    def has_room_for_bias(self) -> bool:
        """Whether a bias can be given; a MatMul without an Add has none."""
        return self.node.op_type != "MatMul" or self.adder is not None

    @property
    def pads(self) -> bool:
        """Whether a constant input does not give a constant output at the borders."""
        if self.node.op_type == "Conv":
            given = any(attribute(self.node, "pads", ()))
            return given or attribute(self.node, "auto_pad", "NOTSET") not in (
                "NOTSET",
                "VALID",
            )
        # Each output of a transposed convolution meets only some of the kernel, which
        # depends on its place: as if all of it were border.
        return self.node.op_type == "ConvTranspose"

    def bias_values(self, view: GraphView) -> NDArray[np.float64]:
        """The bias as float64 [channels], zeros when there is none."""
        if not self.bias:
            return np.zeros(self.channels)
        values = view.constant(self.bias)
        assert values is not None
        return np.broadcast_to(values.astype(np.float64).reshape(-1), (self.channels,))

    def scaled(self, view: GraphView, scale: NDArray[np.float64]) -> Array:
        """W with every output channel multiplied by its scale, in W's type."""
        return self._multiplied(
            scale, self.out_axis, spread=self.node.op_type == "ConvTranspose"
        )

    def scaled_inputs(self, scale: NDArray[np.float64]) -> Array:
        """W with every input channel multiplied by its scale, in W's type."""
        return self._multiplied(
            scale, self.in_axis, spread=self.node.op_type != "ConvTranspose"
        )

    def response(self, constant: NDArray[np.float64]) -> NDArray[np.float64]:
        """W applied to an input that is `constant` [inputs] everywhere: [channels]."""
        # Outputs of a group see inputs of the same group only. Inputs that are zero are
        # left out: few are constant as a rule, so most of W is never summed.
        result, size = np.zeros(self.channels), self.inputs // self.groups
        for group in range(self.groups):
            part = constant[group * size : (group + 1) * size]
            used = np.flatnonzero(part)
            if used.size:
                first = group * (self.channels // self.groups)
                matrix = self._kernel_sums(group, used)
                result[first : first + matrix.shape[0]] = matrix @ part[used]
        return result

    def _kernel_sums(
        self, group: int, inputs: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Sums of W over the kernel between a group's outputs and some of its inputs: [channels / groups, inputs]."""
        kernel = tuple(range(2, self.values.ndim))
        if self.node.op_type == "ConvTranspose":
            # 1. ConvTranspose, [inputs, outputs / groups, ...kernel]: the group is a range of rows.
            rows = inputs + group * (self.inputs // self.groups)
            return np.asarray(self.values[rows].sum(axis=kernel, dtype=np.float64).T)
        if self.out_axis == 1:
            # 2. MatMul and Gemm without transB, [inputs, outputs]: no kernel to sum over.
            return np.asarray(self.values[inputs].astype(np.float64).T)
        # 3. Conv and Gemm with transB, [outputs, inputs / groups, ...kernel]: `inputs`
        # count inside the group already.
        size = self.channels // self.groups
        return np.asarray(
            self.values[group * size : (group + 1) * size, inputs].sum(
                axis=kernel, dtype=np.float64
            )
        )

    def _multiplied(
        self, factors: NDArray[np.float64], axis: int, spread: bool
    ) -> Array:
        """W times factors along an axis; with `spread` each group along the other axis has its own factors."""
        wide, other = self.values.astype(np.float64), 1 - axis
        if spread and self.groups > 1:
            # One row of factors for each group, repeated for the entries of the other
            # axis that belong to it: the axis scaled holds one group only.
            each = np.repeat(
                factors.reshape(self.groups, -1),
                wide.shape[other] // self.groups,
                axis=0,
            )
            table = each if axis == 1 else each.T
        else:
            table = factors[:, None] if axis == 0 else factors[None, :]
        # Computed in float64 and rounded once; a weight that overflows becomes Inf,
        # which the passes look for before they write anything.
        with np.errstate(over="ignore"):
            return (
                wide * table.reshape(*table.shape, *([1] * (wide.ndim - 2)))
            ).astype(self.values.dtype)

    def set_bias(self, view: GraphView, bias: Array) -> None:
        """Write [channels]; a bias that others read too, or that has another shape, is replaced by a new one."""
        # Where the bias is read: input 2 of the layer, or the constant of the Add after a MatMul.
        holder, index = (
            (self.node, 2)
            if self.adder is None
            else (self.adder, bias_input(self.adder, view))
        )
        if (
            self.bias
            and view.is_private(self.bias)
            and view.tensors[self.bias].dims == [self.channels]
        ):
            view.overwrite(self.bias, bias)
        else:
            # `fc.weight`, or `fc.weight.T` of a transposed one, gets `fc.bias`, as PyTorch would name it.
            stem = self.weight.removesuffix(".T").removesuffix("weight").rstrip(".")
            set_input(holder, index, view.add(f"{stem}.bias", bias))


def linear_of(node: onnx.NodeProto, view: GraphView) -> Linear | None:
    """The layer that this node is; None when it is none, or one with computed weights."""
    if (
        not is_standard(node, "Conv", "ConvTranspose", "Gemm", "MatMul")
        or view.opset < 7
    ):
        return None
    # A constant input times a constant weight is no layer: fold-constants computes it.
    values = view.floats(input_of(node, 1))
    if values is None or values.size == 0 or input_of(node, 0) in view.tensors:
        return None

    # 1. MatMul, whose bias is an Add of its own.
    if node.op_type == "MatMul":
        return _matmul(node, values, view)

    # 2. Gemm. As for convolutions, a bias that is computed cannot be rewritten.
    bias = input_of(node, 2)
    if bias and view.floats(bias) is None:
        return None
    if node.op_type == "Gemm":
        return _gemm(node, values, bias, view)

    # 3. Convolutions: [outputs, inputs / groups, ...], transposed ones [inputs, outputs
    # / groups, ...]. Fewer axes are a damaged file's.
    if values.ndim < 3:
        return None
    groups = attribute(node, "group", 1)
    transposed = node.op_type == "ConvTranspose"
    return Linear(
        node,
        node.input[1],
        values,
        bias,
        int(transposed),
        int(not transposed),
        groups,
        values.ndim,
    )


def _gemm(
    node: onnx.NodeProto, values: Array, bias: str, view: GraphView
) -> Linear | None:
    """Gemm with a plain first input and alpha = beta = 1."""
    if (
        attribute(node, "transA", 0)
        or attribute(node, "alpha", 1.0) != 1
        or attribute(node, "beta", 1.0) != 1
    ):
        return None
    # B is [inputs, outputs] unless it is transposed, as PyTorch keeps the weight of nn.Linear.
    out_axis = 0 if attribute(node, "transB", 0) else 1
    if bias and not _is_row(view.tensors[bias].dims, values.shape[out_axis]):
        return None
    return Linear(node, node.input[1], values, bias, out_axis, 1 - out_axis, 1, 2)


def _matmul(node: onnx.NodeProto, values: Array, view: GraphView) -> Linear | None:
    """MatMul with a constant matrix, and the Add of a constant row after it."""
    if values.ndim != 2:
        return None
    # Only where nothing else reads the bare product: otherwise it must stay as it is,
    # and with it the bias apart.
    adder = view.only_reader(node.output[0])
    if adder is not None and is_standard(adder, "Add"):
        bias = adder.input[bias_input(adder, view)]
        row = view.floats(bias)
        if row is not None and _is_row(row.shape, values.shape[1]):
            return Linear(node, node.input[1], values, bias, 1, 0, 1, 2, adder)
    return Linear(node, node.input[1], values, "", 1, 0, 1, 2)


def bias_input(adder: onnx.NodeProto, view: GraphView) -> int:
    """Which input of an Add is the constant."""
    return 0 if adder.input[0] in view.tensors else 1


def _is_row(shape: Any, channels: int) -> bool:
    """Whether a constant can be a bias: [channels], [1, channels] or one number."""
    # More axes would make the result deeper; [channels, 1] would be a table.
    return tuple(shape) in ((channels,), (1, channels), (1,), ())
