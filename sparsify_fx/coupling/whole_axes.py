"""Joins that make every removal a removal of whole slices, along one axis of each tensor."""

from __future__ import annotations

import torch

from sparsify_fx.coupling.classes import Ids
from sparsify_fx.coupling.tracks import Tracks, Value


def whole_axes(tracks: Tracks) -> dict[str, dict[int, Ids]]:
    """The ids along each axis of every parameter and buffer, after joining what its uses slice together.

    A tensor that is reshaped to [heads, width] loses whole heads, or the same entries of all heads, since code that
    reshapes knows no others: of several axes the one with most classes is kept, and the others are joined.
    """
    found = {}
    # As they are now, for all: joins that are made meanwhile are found by the rounds below.
    classes, _ = tracks.resolved()
    for name, uses in tracks.uses.items():
        found[name] = _of_one(uses, classes, tracks)
    values = [value for value in _values(tracks) if len(value.varying) > 1]
    # Each round only joins, so there is an end.
    while _round(values, tracks):
        pass
    return {
        name: {axis: ids for axis, ids in axes.items() if ids.any()}
        for name, axes in found.items()
    }


def _values(tracks: Tracks) -> list[Value]:
    found: list[Value] = []
    for value in tracks.values.values():
        found += value if isinstance(value, list) else [value]
    for uses in tracks.uses.values():
        found += [use for use in uses if isinstance(use, Value)]
    return found


def _round(values: list[Value], tracks: Tracks) -> bool:
    """Join the axes of values whose classes still differ along several; whether there were any."""
    classes, _ = tracks.resolved()
    changed = False
    for value in values:
        mine = torch.from_numpy(classes)[value.ids]
        axes = [
            axis
            for axis in value.varying
            if bool((mine != mine.narrow(axis, 0, 1)).any())
        ]
        if len(axes) > 1:
            best = max(axes, key=lambda axis: _distinct(mine, axis))
            tracks.unify(value, tuple(axis for axis in axes if axis != best))
            changed = True
    return changed


def _distinct(classes: torch.Tensor, axis: int) -> int:
    """How many classes there are along an axis."""
    return int(
        torch.unique(
            classes.movedim(axis, 0).reshape(classes.shape[axis], -1)[:, 0]
        ).numel()
    )


def _of_one(
    uses: list[dict[int, Ids] | Value], classes: Ids, tracks: Tracks
) -> dict[int, Ids]:
    """The ids along the axes of one tensor; what one use slices and another does not stays."""
    slices = [_slices(use, classes, tracks) for use in uses]
    first = slices[0]
    for axis in sorted(set().union(*slices)):
        ids = [mine[axis] for mine in slices if axis in mine]
        for other in ids[1:]:
            tracks.classes.join(ids[0], other)
        if len(ids) < len(slices):
            tracks.classes.pin(ids[0])
        first = first | {axis: ids[0]}
    return first


def _slices(
    use: dict[int, Ids] | Value, classes: Ids, tracks: Tracks
) -> dict[int, Ids]:
    """The ids by axis; of entries with ids of their own, those along the axis with most classes."""
    if not isinstance(use, Value):
        return use
    if not use.varying:
        tracks.pin(use)
        return {}
    mine = torch.from_numpy(classes)[use.ids]
    axes = [axis for axis in use.varying if bool((mine != mine.narrow(axis, 0, 1)).any())]  # fmt: skip
    best = max(axes or use.varying, key=lambda axis: _distinct(mine, axis))
    one = tracks.unify(use, tuple(axis for axis in use.varying if axis != best))
    return {best: one.along(best).numpy()}
