"""Channels of convolutions, transposed convolutions and matrix products."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx

from sparsify_fx.onnx_tools.view import GraphView, input_of, set_attribute, set_input
from sparsify_fx.passes.onnx_graph.channels.constants import Constants, unknown
from sparsify_fx.passes.onnx_graph.channels.kinds import Kind, Values
from sparsify_fx.passes.onnx_graph.channels.removal import Removal
from sparsify_fx.passes.onnx_graph.channels.spaces import Array, Mask, Reading, Spaces
from sparsify_fx.passes.onnx_graph.linear import Linear, linear_of


def plain_layer(node: onnx.NodeProto, view: GraphView) -> Linear | None:
    """The layer with float32 weights that the node is; a MatMul without the Add that follows it."""
    layer = linear_of(node, view)
    if layer is None or layer.values.dtype != np.float32:
        return None
    # The Add after a MatMul is a sum of its own here: elementwise.py follows it, and
    # its row of constants is sliced as any other.
    return replace(layer, adder=None, bias="") if layer.adder is not None else layer


def track(node: onnx.NodeProto, spaces: Spaces) -> bool:
    """A dense layer reads its inputs and makes new channels; the groups of a grouped one stand and fall as a whole."""
    layer = plain_layer(node, spaces.view)
    data = spaces.tracks.get(input_of(node, 0))
    if layer is None:
        return False
    # 1. Where the channels are: axis 1, for MatMul the last one, on as many axes as the input has.
    rank, axis = layer.rank, 1
    if node.op_type == "MatMul":
        rank = len(spaces.shapes.get(node.input[0], ())) if data is None else data.rank
        axis = rank - 1

    # 2. The tracked input must have its channels just there. A value without tracks is
    # a graph input or the like, all of whose channels stay.
    if rank < 2 or (
        data is not None
        and (data.axis, data.rank, data.size) != (axis, rank, layer.inputs)
    ):
        return False

    # 3. Outputs are new channels: nothing is known of them but what the weights say.
    outputs, inputs = spaces.fresh(layer.channels), None if data is None else data.ids
    spaces.put(node.output[0], axis, rank, outputs)
    spaces.use_weight(
        layer.weight, f"{node.op_type} {layer.out_axis} {layer.groups}", inputs, outputs
    )

    # 4. Dense: liveness decides output by output, along the non-zero weights.
    if layer.groups == 1:
        spaces.readings[node.output[0]] = Reading(
            node, inputs, outputs, _nonzero(layer), not layer.pads
        )
    elif inputs is None:
        spaces.pin(outputs)
    else:
        # 5. Grouped: all groups must stay of one size, so a group's inputs and outputs
        # go together or not at all. A chain of pairs joins them all.
        for group, members in zip(
            np.split(outputs, layer.groups), np.split(inputs, layer.groups), strict=True
        ):
            whole = np.concatenate([group, members])
            spaces.join(whole[:-1], whole[1:])
    return True


def _nonzero(layer: Linear) -> Mask:
    """[outputs, inputs]: whether the layer has a weight other than zero between the two."""
    values = layer.values
    some = (values != 0).any(axis=tuple(range(2, values.ndim)))
    return np.asarray(some if layer.out_axis == 0 else some.T)


def constants(node: onnx.NodeProto, found: Constants) -> list[Values]:
    """A channel is constant when every weight that leads to it is zero or meets a constant: b + Σ W k.

    At a padded border, and in a transposed convolution, only zeros stay constant.
    """
    layer = plain_layer(node, found.view)
    assert layer is not None
    data = node.input[0]
    values = found.of(data) if data in found.spaces.tracks else unknown(layer.inputs)
    # At a border fewer weights meet the constant, so the result is another there; a
    # zero is zero everywhere.
    usable = values == 0 if layer.pads else ~np.isnan(values)
    # The sum over the constant inputs. An output that reads any other input is not constant.
    known = np.where(usable, values, 0.0)
    result = layer.bias_values(found.view) + layer.response(known)
    return [np.where(_depends_on(layer, ~usable), np.nan, result)]


def _depends_on(layer: Linear, inputs: Mask) -> Mask:
    """[outputs]: whether a non-zero weight leads there from one of these inputs."""
    if layer.groups == 1:
        return np.asarray(_nonzero(layer)[:, inputs].any(axis=1))
    some = (layer.values != 0).any(axis=tuple(range(2, layer.values.ndim)))
    # [groups, outputs, inputs] for either layout: rows of a Conv are outputs, of a ConvTranspose inputs.
    grouped = some.reshape(layer.groups, -1, some.shape[1])
    if layer.out_axis == 1:
        grouped = grouped.transpose(0, 2, 1)
    return np.asarray(
        (grouped & inputs.reshape(layer.groups, 1, -1)).any(axis=2).reshape(-1)
    )


def remove(node: onnx.NodeProto, removal: Removal) -> None:
    """Slice weight and bias; constants that the removed inputs brought move into the bias."""
    view = removal.view
    layer = plain_layer(node, view)
    assert layer is not None
    outputs = removal.kept(node.output[0])
    inputs = removal.kept_or_all(node.input[0], layer.inputs)
    bias = layer.bias_values(view)

    # 1. Slice W. What removed inputs brought, W k, is added to the bias, before W loses them.
    # `response` adds up the whole kernel: liveness let only zeros go in front of padding.
    if layer.groups == 1:
        lost = (
            np.where(inputs, 0.0, np.nan_to_num(removal.constants.of(node.input[0])))
            if not inputs.all()
            else None
        )
        moved = (
            layer.response(lost)[outputs]
            if lost is not None
            else np.zeros(int(outputs.sum()))
        )
        _slice_dense(layer, outputs, inputs, removal)
    else:
        moved = np.zeros(int(outputs.sum()))
        # Groups go with their inputs, so no removed input reaches an output that stays.
        _slice_groups(layer, outputs, inputs, removal)

    # 2. The bias: a new one where something was added, else a slice of the old one. One
    # that is a single number for all channels needs no slice.
    if moved.any():
        _set_bias(layer, (bias[outputs] + moved).astype(np.float32), removal)
    elif (
        layer.bias
        and not outputs.all()
        and view.tensors[layer.bias].dims[-1:] == [layer.channels]
    ):
        axis = len(view.tensors[layer.bias].dims) - 1
        set_input(node, 2, removal.sliced(layer.bias, axis, outputs))


def _slice_dense(layer: Linear, outputs: Mask, inputs: Mask, removal: Removal) -> None:
    """Drop rows, then columns: two slices, each of which a layer that shares the weight may share."""
    name = removal.sliced(layer.weight, layer.out_axis, outputs)
    layer.node.input[1] = removal.sliced(name, layer.in_axis, inputs)


def _slice_groups(layer: Linear, outputs: Mask, inputs: Mask, removal: Removal) -> None:
    """Drop whole groups: their rows of the weight, and their number in the attribute."""
    kept = outputs.reshape(layer.groups, -1).any(axis=1)
    # Axis 0 runs over all groups; the other axis holds one group, and keeps its size.
    rows = outputs if layer.out_axis == 0 else inputs
    layer.node.input[1] = removal.sliced(layer.weight, 0, rows)
    set_attribute(layer.node, "group", int(kept.sum()))


def _set_bias(layer: Linear, bias: Array, removal: Removal) -> None:
    """Give the layer a new bias; a MatMul gets an Add after it."""
    stem = layer.weight.removesuffix(".T").removesuffix("weight").rstrip(".") or "layer"
    name = (
        removal.add(layer.bias, bias)
        if layer.bias
        else removal.view.add(f"{stem}.bias", bias)
    )
    if layer.node.op_type != "MatMul":
        set_input(layer.node, 2, name)
        return
    # The Add makes the old name, so that nobody has to read another one.
    output = layer.node.output[0]
    layer.node.output[0] = removal.view.fresh(f"{output}_product")
    removal.insert_after(
        onnx.helper.make_node("Add", [layer.node.output[0], name], [output])
    )


LAYERS = dict.fromkeys(
    ("Conv", "ConvTranspose", "Gemm", "MatMul"), Kind(track, constants, remove)
)
