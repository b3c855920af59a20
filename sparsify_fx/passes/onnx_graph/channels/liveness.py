"""Which channels must stay: one walk from the outputs to the inputs, repeated until nothing changes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsify_fx.passes.onnx_graph.channels.constants import Constants
from sparsify_fx.passes.onnx_graph.channels.spaces import Ids, Mask, Reading, Spaces


@dataclass(frozen=True)
class _Edge:
    """A layer: the classes of its inputs and outputs, and where it really reads."""

    inputs: Ids
    outputs: Ids
    reads: Mask


def channels_that_stay(spaces: Spaces, constants: Constants | None) -> Mask:
    """[ids]: whether each channel stays.

    A channel must stay when it is pinned, when a layer reads it with a non-zero weight for an output that stays, and
    when a channel that it is joined with must stay. With `constants`, a read of a constant that the reader can take
    into its bias does not count. No value loses all its channels.
    """
    classes, stays = spaces.resolve()
    edges = [
        _edge(reading, classes, constants)
        for reading in reversed(list(spaces.readings.values()))
        if reading.inputs is not None
    ]
    values = [np.unique(classes[track.ids]) for track in spaces.tracks.values()]
    while True:
        _spread(edges, stays)
        empty = next((members for members in reversed(values) if not stays[members].any()), None)
        if empty is None:
            return np.asarray(stays[classes])
        stays[_cheapest(empty, edges)] = True


def _edge(reading: Reading, classes: Ids, constants: Constants | None) -> _Edge:
    assert reading.inputs is not None
    reads = reading.nonzero
    if constants is not None:
        values = constants.of(reading.node.input[0])
        folds = ~np.isnan(values) if reading.folds_any else values == 0
        reads = reads & ~folds
    return _Edge(classes[reading.inputs], classes[reading.outputs], reads)


def _spread(edges: list[_Edge], stays: Mask) -> None:
    """Mark everything that what stays depends on, in place."""
    before = -1
    while (now := int(stays.sum())) != before:
        before = now
        for edge in edges:
            stays[edge.inputs[edge.reads[stays[edge.outputs]].any(axis=0)]] = True


def _cheapest(members: Ids, edges: list[_Edge]) -> int:
    """The class that reads the fewest channels: a constant one reads none. Ties: the first."""
    cost: dict[int, int] = dict.fromkeys(members.tolist(), 0)
    for edge in edges:
        for place in np.flatnonzero(np.isin(edge.outputs, members)):
            cost[int(edge.outputs[place])] += int(edge.reads[place].sum())
    return min(cost, key=lambda member: (cost[member], member))
