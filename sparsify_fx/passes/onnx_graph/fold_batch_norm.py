"""fold-batch-norm: scales and shifts after a convolution or linear layer move into its weights."""

from __future__ import annotations

import numpy as np
import onnx

from sparsify_fx.onnx_tools.shapes import infer_shapes
from sparsify_fx.onnx_tools.view import GraphView
from sparsify_fx.passes.onnx_graph.affine import Affine, affine_of
from sparsify_fx.passes.onnx_graph.base import GraphPass
from sparsify_fx.passes.onnx_graph.drop_unused import forget_shapes
from sparsify_fx.passes.onnx_graph.linear import Linear, linear_of


def fold_batch_norm(model: onnx.ModelProto) -> bool:
    """W' = scale * W and b' = scale * b + shift, for each output channel, computed in float64.

    The pair is Conv, ConvTranspose, Gemm or MatMul, and its only reader:
        1. BatchNormalization with constant statistics, in evaluation;
        2. Mul, Add, Sub or Div with one constant per channel (or one number).
    The reader goes, and the layer makes its output; for MatMul, which has no bias, it becomes the Add of the shift.

    Left alone are
        1. weights that anything else reads, unless only the bias changes;
        2. results that others, a subgraph or the caller read too;
        3. scales that are not finite, or would make a weight overflow;
        4. norms after a MatMul on three or more axes: axis 1 is not the layer's output there.

    Afterwards the graph has no such pair. A chain (norm, scale, shift) folds from the front to its end.
    """
    changed = False
    while _fold_one(model):
        changed = True
    return changed


def _fold_one(model: onnx.ModelProto) -> bool:
    """Fold all pairs that do not overlap; True when there was one."""
    view = GraphView(model)
    # `view` shows the graph before this walk. What one fold writes (a weight, the name
    # of a result) is `touched` and waits for the next walk, whose view is new.
    dead, touched, changed = [], set[str](), False
    for index, node in enumerate(view.nodes):
        layer = linear_of(node, view)
        reader = view.only_reader(layer.output) if layer is not None else None
        if (
            layer is None
            or reader is None
            or layer.weight in touched
            or layer.output in touched
        ):
            continue
        # The reader must scale this very result: in Mul(x, y) of two layers only one is `value`.
        affine = affine_of(reader, view, layer.rank)
        full = (
            affine.of(layer.channels)
            if affine is not None and affine.value == layer.output
            else None
        )
        if (
            full is None
            or not channels_are_axis_one(layer.node, reader, model)
            or not _apply(layer, full, view)
        ):
            continue
        # W is rewritten, and the reader's output has another maker now.
        touched |= {layer.weight, reader.output[0]}
        changed = True
        if layer.has_room_for_bias or not full.shift.any():
            # The layer makes the reader's output now, so names of graph outputs stay.
            layer.last.output[0] = reader.output[0]
            dead.append(
                next(
                    i for i in range(index, len(view.nodes)) if view.nodes[i] is reader
                )
            )
        else:
            # A MatMul without Add: the scale is in W, and the reader turns into the Add of what is left.
            shift = view.add(
                f"{reader.output[0]}_shift", full.shift.astype(layer.values.dtype)
            )
            reader.CopyFrom(
                onnx.helper.make_node("Add", [layer.output, shift], list(reader.output))
            )
    for index in sorted(dead, reverse=True):
        del model.graph.node[index]
    forget_shapes(model)
    return changed


def channels_are_axis_one(
    layer: onnx.NodeProto, norm: onnx.NodeProto, model: onnx.ModelProto
) -> bool:
    """Whether the channels that a batch norm scales are the ones of the layer: not beside a MatMul on three axes."""
    if layer.op_type != "MatMul" or norm.op_type != "BatchNormalization":
        return True
    return len(infer_shapes(model).get(layer.output[0], ())) == 2


def _apply(layer: Linear, affine: Affine, view: GraphView) -> bool:
    """Write the new weight and bias; False when they cannot be."""
    rescaled = bool((affine.scale != 1).any())
    if rescaled and not view.is_private(layer.weight):
        return False
    bias = affine.scale * layer.bias_values(view) + affine.shift
    # Both in float64 and rounded once: a norm of its own rounds twice, so bits differ
    # in the last place, which the proof allows for.
    weight = layer.scaled(view, affine.scale)
    # A weight that leaves float32 would turn a finite product into Inf; a bias is
    # compared before it is rounded, for the same reason.
    kind = weight.dtype
    limit = np.finfo(kind).max
    if (
        max(np.abs(weight).max(initial=0), np.abs(bias).max(initial=0)) > limit
        or not np.isfinite(weight).all()
    ):
        return False
    # A shift alone leaves W as it is, so that layers may go on sharing it.
    if rescaled:
        view.overwrite(layer.weight, weight)
    if layer.has_room_for_bias and (layer.bias or bias.any()):
        layer.set_bias(view, bias.astype(kind))
    return True


FOLD_BATCH_NORM = GraphPass("fold-batch-norm", fold_batch_norm, exact=False)
