"""Norms.

batch, instance    each channel by itself: the vectors of the norm are sliced along
group              a group as a whole, since its mean is over all its channels
layer, RMS         the mean is over all channels: they stay; those of a head alone live or die together
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from sparsify_fx.coupling.rules.base import Rule, arguments
from sparsify_fx.coupling.tracks import Resized, Tracks, Value

_VECTORS = ("weight", "bias", "running_mean", "running_var")


def _slice_vectors(given: dict[str, Any], ids: Tensor, tracks: Tracks) -> bool:
    vectors: list[Any] = [
        given[name] for name in _VECTORS if given.get(name) is not None
    ]
    if not all(tracks.is_raw(vector) for vector in vectors):
        return False
    for vector in vectors:
        tracks.use(vector, {0: ids})
    return True


def _each(node: fx.Node, tracks: Tracks) -> Value | None:
    given = arguments(node)
    data = tracks.value(given["input"])
    if set(data.varying) - {1} or not _slice_vectors(given, data.along(1), tracks):
        return None
    if data.varying and all(given.get(name) is None for name in _VECTORS):
        tracks.bare.append(Resized(node, data, data, tracks.prefix))
    return data


def _group(node: fx.Node, tracks: Tracks) -> Value | None:
    given = arguments(node)
    data, groups = tracks.value(given["input"]), given["num_groups"]
    if set(data.varying) - {1}:
        return None
    ids = data.along(1)
    by_group = ids.reshape(groups, -1)
    tracks.join(by_group, by_group[:, :1])
    return data if _slice_vectors(given, ids, tracks) else None


def _last(node: fx.Node, tracks: Tracks) -> Value | None:
    given = arguments(node)
    data = tracks.value(given["input"])
    axes = range(len(data.shape) - len(given["normalized_shape"]), len(data.shape))
    return tracks.within(data, axes)


NORMS: dict[str, Rule] = {
    **dict.fromkeys(("batch_norm", "instance_norm"), _each),
    "group_norm": _group,
    **dict.fromkeys(("layer_norm", "rms_norm"), _last),
}
