"""Nodes that scale and shift channels: batch norms, and products and sums with constants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from sparsify_fx.onnx_tools.view import GraphView, attribute, input_of, is_standard

Wide = NDArray[np.float64]


@dataclass(frozen=True)
class Affine:
    """y = scale * x + shift for each channel; both [channels], or one number each that holds for all."""

    value: str
    scale: Wide
    shift: Wide

    def of(self, channels: int) -> Affine | None:
        """Both as [channels]; None when the sizes disagree or a number is not finite."""
        try:
            scale = np.broadcast_to(self.scale.reshape(-1), (channels,))
            shift = np.broadcast_to(self.shift.reshape(-1), (channels,))
        except ValueError:
            return None
        # A norm with variance -ε, or a division by zero: NaN and Inf must stay where the model has them.
        finite = np.isfinite(scale).all() and np.isfinite(shift).all()
        return Affine(self.value, scale, shift) if finite else None


def affine_of(node: onnx.NodeProto, view: GraphView, rank: int) -> Affine | None:
    """The affine map that a node applies to the channels (axis 1) of a value of this rank; None for all others.

    BatchNormalization in evaluation: scale = γ / sqrt(var + ε), shift = β − mean * scale, in float64.
    """
    if is_standard(node, "BatchNormalization"):
        return batch_norm(node, view)
    if is_standard(node, "Mul", "Add", "Sub", "Div") and view.opset >= 7:
        return _with_constant(node, view, rank)
    return None


def batch_norm(node: onnx.NodeProto, view: GraphView) -> Affine | None:
    """The affine map of a batch norm that is evaluated with constant statistics."""
    # In training it normalizes by the batch, not by constants; `spatial` = 0 (before opset
    # 9) has statistics for every place; further outputs are the statistics themselves.
    training = attribute(node, "training_mode", 0) or not attribute(node, "spatial", 1)
    if training or sum(bool(name) for name in node.output) != 1 or view.opset < 7:
        return None
    found = [view.floats(input_of(node, index)) for index in range(1, 5)]
    known = [
        value.astype(np.float64)
        for value in found
        if value is not None and value.ndim == 1
    ]
    if len(known) < 4:
        return None
    # float64 throughout, but ε as the float32 that the attribute is stored in.
    gamma, beta, mean, variance = known
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(
            variance + float(np.float32(attribute(node, "epsilon", 1e-5)))
        )
        return Affine(node.input[0], scale, beta - mean * scale)


def _with_constant(node: onnx.NodeProto, view: GraphView, rank: int) -> Affine | None:
    """The affine map of a product, sum, difference or quotient with one constant operand.

    1. x * c, c * x: scale c.        4. c - x: scale -1, shift c.
    2. x + c, c + x: shift c.        5. x / c: scale 1 / c; Inf where c is 0, which `of` refuses.
    3. x - c: shift -c.              6. c / x is not affine.
    """
    left, right = view.floats(node.input[0]), view.floats(node.input[1])
    if (left is None) == (right is None) or (
        left is not None and node.op_type == "Div"
    ):
        return None
    constant = right if left is None else left
    value = node.input[0] if left is None else node.input[1]
    assert constant is not None
    if not _per_channel(constant.shape, rank):
        return None
    number = constant.astype(np.float64).reshape(-1)
    one, zero = np.ones_like(number), np.zeros_like(number)
    if node.op_type == "Mul":
        return Affine(value, number, zero)
    if node.op_type == "Add":
        return Affine(value, one, number)
    if node.op_type == "Div":
        with np.errstate(all="ignore"):
            return Affine(value, 1 / number, zero)
    return Affine(value, one, -number) if left is None else Affine(value, -one, number)


def _per_channel(shape: tuple[int, ...], rank: int) -> bool:
    """Whether a constant of this shape, broadcast to `rank` axes, differs along axis 1 only."""
    if len(shape) > rank:
        return False
    # Broadcasting aligns the last axes: missing ones are in front, and of size 1.
    full = (1,) * (rank - len(shape)) + shape
    return rank >= 2 and all(size == 1 for axis, size in enumerate(full) if axis != 1)
