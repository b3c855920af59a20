"""Operators that reduce or look around along some axes, such as pooling and softmax: channels along others pass.

Along an axis within heads, or among equal branches, the ids of each head, or of each channel, become one.
"""

from __future__ import annotations

from torch import fx

from sparsify_fx.coupling.rules.base import (
    Rule,
    arguments,
    keep_ids,
    over_one,
    shape_of,
)
from sparsify_fx.coupling.rules.elementwise import several
from sparsify_fx.coupling.tracks import Tracks, Value

_POOLS = (
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d", "upsample_nearest2d", "upsample_bilinear2d",
    "upsample_bicubic2d", "upsample_nearest1d", "upsample_linear1d", "lp_pool2d",
)  # fmt: skip
_POOLS_WITH_PLACES = (
    "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "max_pool1d_with_indices",
    "max_pool2d_with_indices", "max_pool3d_with_indices",
)  # fmt: skip
_REDUCTIONS = (
    "mean", "sum", "amax", "amin", "var", "std", "prod", "norm", "logsumexp", "linalg_vector_norm", "median",
    "var_mean", "std_mean",
)  # fmt: skip
_ALONG = ("softmax", "log_softmax", "_softmax", "cumsum", "_log_softmax", "safe_softmax")  # fmt: skip


def _pool(node: fx.Node, tracks: Tracks) -> Value | None:
    """Windows lie on the last axes; ids that differ there are mixed."""
    found = _pooled(node, tracks)
    return None if found is None else keep_ids(node, tracks)


def _pooled(node: fx.Node, tracks: Tracks) -> Value | None:
    data = tracks.value(node.args[0])
    spatial = len(data.shape) - 2
    if any(axis > len(data.shape) - 1 - spatial for axis in data.varying):
        return None
    return data


def _pool_with_places(node: fx.Node, tracks: Tracks) -> list[Value] | None:
    """The largest entries and their places; the ids are those of both."""
    data, shapes = _pooled(node, tracks), [tuple(v.shape) for v in node.meta["val"]]
    if data is None or any(shapes[0][axis] != data.shape[axis] for axis in data.varying):  # fmt: skip
        return None
    return [Value(data.ids, shape) for shape in shapes]


def _unpool(node: fx.Node, tracks: Tracks) -> Value | None:
    """Each channel is put back to the places that a pool found in a channel: both live or die together."""
    data, places = _pooled(node, tracks), tracks.value(node.args[1])
    if data is None or any(axis not in data.varying for axis in places.varying):
        return None
    tracks.join(data.ids, places.ids)
    return keep_ids(node, tracks)


def _reduce(node: fx.Node, tracks: Tracks) -> Value | list[Value] | None:
    data, given = tracks.value(node.args[0]), arguments(node)
    chosen = given.get("dim")
    rank = len(data.shape)
    axes = list(range(rank)) if chosen in (None, []) else chosen
    axes = [axis % rank for axis in ([axes] if isinstance(axes, int) else axes)]
    found = tracks.within(data, axes)
    if found is None:
        return None
    ids = found.ids
    if not given.get("keepdim", False):
        left = [size for axis, size in enumerate(ids.shape) if axis not in axes]
        ids = ids.reshape(left)
    # The largest entry along an axis comes with its place.
    made = node.meta["val"]
    if isinstance(made, (tuple, list)):
        return [Value(ids, tuple(value.shape)) for value in made]
    return Value(ids, shape_of(node))


def _extreme(node: fx.Node, tracks: Tracks) -> Value | list[Value] | None:
    """The largest entry along an axis, or of each pair of two tensors."""
    return (
        several(node, tracks) if "other" in arguments(node) else _reduce(node, tracks)
    )


def _along(node: fx.Node, tracks: Tracks) -> Value | None:
    data, given = tracks.value(node.args[0]), arguments(node)
    axis = given["dim"] % len(data.shape)
    if "softmax" in str(node.target) and data.shape[axis] == 1:
        return over_one(node, tracks)
    found = tracks.within(data, [axis])
    return None if found is None else Value(found.ids, data.shape)


REDUCING: dict[str, Rule] = {
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(_POOLS_WITH_PLACES, _pool_with_places),
    **dict.fromkeys(("max_unpool2d", "max_unpool3d"), _unpool),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    **dict.fromkeys(("max", "min"), _extreme),
    **dict.fromkeys(_ALONG, _along),
}
