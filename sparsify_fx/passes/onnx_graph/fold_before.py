"""fold-before: scales and shifts before a convolution or linear layer move into its weights."""

from __future__ import annotations

import math

import numpy as np
import onnx

from sparsify_fx.onnx_tools.shapes import Shape, infer_shapes
from sparsify_fx.onnx_tools.view import GraphView, attribute, is_standard
from sparsify_fx.passes.onnx_graph.affine import Affine, affine_of
from sparsify_fx.passes.onnx_graph.base import GraphPass
from sparsify_fx.passes.onnx_graph.drop_unused import forget_shapes
from sparsify_fx.passes.onnx_graph.fold_batch_norm import channels_are_axis_one
from sparsify_fx.passes.onnx_graph.linear import Linear, linear_of


def fold_before(model: onnx.ModelProto) -> bool:
    """W' = W * scale for each input channel and b' = b + W shift, computed in float64.

    The pair is an affine node (BatchNormalization, or Mul, Add, Sub, Div with one constant per channel) and the Conv,
    ConvTranspose, Gemm or MatMul that alone reads it:
        1. directly;
        2. across a Flatten, or a Reshape that amounts to one, before Gemm or MatMul: each channel has then as many
           columns of W as it has entries.

    Left alone are
        1. shifts before padding, as at a border fewer of the weights see them, and before ConvTranspose likewise;
        2. shifts before a MatMul without a bias;
        3. weights that anything else reads, and numbers that would not be finite;
        4. constants that widen a value of one channel to many: the layer's input would be narrower than W.

    Afterwards the graph has no such pair; the affine node is gone.
    """
    changed = False
    while _fold_one(model):
        changed = True
    return changed


def _fold_one(model: onnx.ModelProto) -> bool:
    """Fold the first pair; True when there was one."""
    view = GraphView(model)
    # One fold a walk: it moves a reader to another value, which the view does not know.
    for node in view.nodes:
        layer = linear_of(node, view)
        found = _before(layer, view, model) if layer is not None else None
        if layer is None or found is None:
            continue
        affine, norm, reader = found
        if _apply(layer, affine, view):
            reader.input[0] = affine.value
            index = next(i for i, other in enumerate(view.nodes) if other is norm)
            del model.graph.node[index]
            forget_shapes(model)
            return True
    return False


def _before(
    layer: Linear, view: GraphView, model: onnx.ModelProto
) -> tuple[Affine, onnx.NodeProto, onnx.NodeProto] | None:
    """The affine map of the layer's inputs, the node that makes it, and the node that reads that one's output."""
    # 1. What makes the layer's input, for the layer alone.
    reader = layer.node
    source = view.producers.get(reader.input[0])
    if source is None or view.only_reader(reader.input[0]) is None:
        return None
    rank, repeats = layer.rank, 1
    if is_standard(source, "Flatten", "Reshape"):
        # 2. Across a Flatten: `reader` is then the Flatten, which reads the affine
        # map's input in future, and the channels are those before it.
        if layer.node.op_type not in ("Gemm", "MatMul"):
            return None
        flattened = _flattened(source, view, infer_shapes(model), layer.inputs)
        before = view.producers.get(source.input[0])
        if (
            flattened is None
            or before is None
            or view.only_reader(source.input[0]) is None
        ):
            return None
        (rank, repeats), reader, source = flattened, source, before

    # 3. An affine map on the axis that W's inputs are. A constant value is for fold-constants.
    affine = affine_of(source, view, rank)
    if (
        affine is None
        or affine.value in view.tensors
        or not channels_are_axis_one(layer.node, source, model)
    ):
        return None

    # 4. One factor a channel, then one for each of its columns of W.
    full = affine.of(layer.inputs // repeats)
    if full is None or not _has_channels(
        affine.value, full.scale.size, rank, layer, model
    ):
        return None
    return (
        Affine(
            full.value, np.repeat(full.scale, repeats), np.repeat(full.shift, repeats)
        ),
        source,
        reader,
    )


def _has_channels(
    name: str, channels: int, rank: int, layer: Linear, model: onnx.ModelProto
) -> bool:
    """Whether the value has the layer's channels already, rather than getting them by broadcasting a constant."""
    # Mul([N, 1, H, W], [1, 64, 1, 1]) has 64 channels, its input one.
    shape = infer_shapes(model).get(name, ())
    # A MatMul on any number of axes has its inputs along the last one.
    if layer.node.op_type == "MatMul" and rank == layer.rank:
        return len(shape) >= 2 and shape[-1] == channels
    return len(shape) == rank and shape[1] == channels


def _flattened(
    node: onnx.NodeProto, view: GraphView, shapes: dict[str, Shape], size: int
) -> tuple[int, int] | None:
    """(rank before, entries of a channel) where the node turns [N, channels, ...] into [N, size]."""
    shape, after = shapes.get(node.input[0], ()), shapes.get(node.output[0], ())
    # The batch may be open, but the entries of a sample must be known, and as many as W reads.
    inner = [entry for entry in shape[1:] if isinstance(entry, int)]
    if (
        len(shape) < 2
        or len(after) != 2
        or len(inner) < len(shape) - 1
        or math.prod(inner) != size
    ):
        return None
    if node.op_type == "Flatten" and attribute(node, "axis", 1) != 1:
        return None
    # A Reshape to [.., size] keeps the rows when a row has just these entries.
    return (len(shape), math.prod(inner[1:])) if after[1] == size else None


def _apply(layer: Linear, affine: Affine, view: GraphView) -> bool:
    """Write the new weight and bias; False when they cannot be."""
    # A padded border is zero in the original, and would have to be -shift / scale here.
    if not view.is_private(layer.weight) or (
        affine.shift.any() and (layer.pads or not layer.has_room_for_bias)
    ):
        return False
    weight = layer.scaled_inputs(affine.scale)
    # W before it is scaled: b + W (s x + t) = b + W t + (W s) x.
    bias = (layer.bias_values(view) + layer.response(affine.shift)).astype(weight.dtype)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        return False
    if affine.shift.any():
        layer.set_bias(view, bias)
    view.overwrite(layer.weight, weight)
    return True


FOLD_BEFORE = GraphPass("fold-before", fold_before, exact=False)
