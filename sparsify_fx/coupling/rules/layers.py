"""Layers with a weight: they give their outputs fresh ids.

linear, convolution     rows are outputs, columns are inputs
linear over tokens      channels along another axis pass
matrix [inputs, outputs]  `addmm`, `mm` and `x @ weight`, as transformers' Conv1D
grouped convolution     a group's inputs and outputs live or die together
embedding               columns are outputs; rows are words, and stay
"""

from __future__ import annotations

from torch import Tensor, fx

from sparsify_fx.coupling.rules.base import Rule, arguments, shape_of
from sparsify_fx.coupling.tracks import Reading, Tracks, Value


def _only(value: Value, axis: int, tracks: Tracks) -> Tensor:
    """The ids along an axis; a weight that is shared along the others is sliced alike for all."""
    others = tuple(other for other in value.varying if other != axis)
    return tracks.unify(value, others).along(axis)


def _placed(ids: Tensor, axis: int, shape: tuple[int, ...]) -> Value:
    sizes = [1] * len(shape)
    sizes[axis] = -1
    return Value(ids.reshape(sizes), shape)


def _linear(node: fx.Node, tracks: Tracks) -> Value | None:
    given = arguments(node)
    weight, bias = given["weight"], given.get("bias")
    if not tracks.is_raw(weight) or (bias is not None and not tracks.is_raw(bias)):
        return None
    data, shape = tracks.value(given["input"]), shape_of(node)
    last = len(data.shape) - 1
    # A layer over tokens, [..., channels, tokens]: each channel by itself.
    if data.varying and not data.varies(last):
        for tensor in (weight, bias):
            if tensor is not None:
                tracks.use(tensor, {})
        return Value(data.ids, shape)
    inputs = _only(data, last, tracks)
    outputs = tracks.channels(shape[-1])
    tracks.use(weight, {0: outputs, 1: inputs})
    if bias is not None:
        tracks.use(bias, {0: outputs})
    name = tracks.tensors[weight.name]
    tracks.readings.append(Reading(name, inputs.numpy(), outputs.numpy()))
    return _placed(outputs, len(shape) - 1, shape)


def _matrix(node: fx.Node, tracks: Tracks) -> Value | None:
    """A product with a weight [inputs, outputs], and its bias."""
    given = arguments(node)
    data, weight = given.get("mat1", given["self"]), given["mat2"]
    bias = given["self"] if "mat1" in given else None
    if not tracks.is_raw(weight) or (bias is not None and not _is_row(bias, tracks)):
        return None
    return _times(node, data, weight, bias, tracks)


def times_weight(node: fx.Node, tracks: Tracks) -> Value | None:
    """`x @ weight` with a weight [inputs, outputs], of however many axes x is."""
    data, weight = node.args[:2]
    assert isinstance(data, fx.Node)
    assert isinstance(weight, fx.Node)
    if not tracks.is_raw(weight) or len(shape_of(weight)) != 2:
        return None
    return _times(node, data, weight, None, tracks)


def _is_row(bias: fx.Node, tracks: Tracks) -> bool:
    return tracks.is_raw(bias) and len(shape_of(bias)) == 1


def _times(
    node: fx.Node, data: fx.Node, weight: fx.Node, bias: fx.Node | None, tracks: Tracks
) -> Value:
    shape = shape_of(node)
    last = len(shape) - 1
    inputs = _only(tracks.value(data), last, tracks)
    outputs = tracks.channels(shape[last])
    tracks.use(weight, {0: inputs, 1: outputs})
    if bias is not None:
        tracks.use(bias, {0: outputs})
    name = tracks.tensors[weight.name]
    tracks.readings.append(Reading(name, inputs.numpy(), outputs.numpy(), True))
    return _placed(outputs, last, shape)


def _convolution(node: fx.Node, tracks: Tracks) -> Value | None:
    given = arguments(node)
    weight, bias, groups = given["weight"], given.get("bias"), given["groups"]
    if not tracks.is_raw(weight) or (bias is not None and not tracks.is_raw(bias)):
        return None
    transposed = "transpose" in str(node.target)
    data, shape = tracks.value(given["input"]), shape_of(node)
    # Unbatched images have their channels first.
    axis = len(shape) - weight.meta["val"].ndim + 1
    inputs = _only(data, axis, tracks)
    outputs = tracks.channels(shape[axis])
    name = tracks.tensors[weight.name]
    rows, columns = (inputs, outputs) if transposed else (outputs, inputs)
    if groups == 1:
        tracks.use(weight, {0: rows, 1: columns})
        tracks.readings.append(
            Reading(name, inputs.numpy(), outputs.numpy(), transposed)
        )
    else:
        heads = inputs.reshape(groups, -1)
        tracks.join(heads, heads[:, :1])
        tracks.join(outputs.reshape(groups, -1), heads[:, :1])
        tracks.use(weight, {0: rows})
    if bias is not None:
        tracks.use(bias, {0: outputs})
    return _placed(outputs, axis, shape)


def _embedding(node: fx.Node, tracks: Tracks) -> Value | None:
    weight, shape = arguments(node)["weight"], shape_of(node)
    if not tracks.is_raw(weight):
        return None
    outputs = tracks.channels(shape[-1])
    tracks.use(weight, {1: outputs})
    return _placed(outputs, len(shape) - 1, shape)


LAYERS: dict[str, Rule] = {
    "linear": _linear,
    **dict.fromkeys(("addmm", "mm"), _matrix),
    **dict.fromkeys(
        (
            "conv1d",
            "conv2d",
            "conv3d",
            "conv_transpose1d",
            "conv_transpose2d",
            "conv_transpose3d",
        ),
        _convolution,
    ),
    "embedding": _embedding,
}
