"""Which channels must stay: one walk from the outputs to the inputs, repeated until nothing changes.

The graph is bipartite: classes of channels, and layers that read some of them to make others. What is pinned stays; a
class stays when a layer reads it with a non-zero weight for an output that stays. The least fixed point of that is what
must stay. Two repairs follow, each of which keeps one more class and spreads again: no value may end up empty, and
inputs of convolutions keep a multiple of `multiple` channels.
"""

from __future__ import annotations

import numpy as np

from sparsify_fx.coupling.classes import Edge, spread
from sparsify_fx.passes.onnx_graph.channels.constants import Constants
from sparsify_fx.passes.onnx_graph.channels.spaces import Ids, Mask, Reading, Spaces

_FEW = 8  # up to here onnxruntime has fast kernels for any number of channels


def channels_that_stay(
    spaces: Spaces, constants: Constants | None, multiple: int = 1
) -> Mask:
    """[ids]: whether each channel stays.

    A channel must stay when it is pinned, when a layer reads it with a non-zero weight for an output that stays, and
    when a channel that it is joined with must stay. With `constants`, a read of a constant that the reader can take
    into its bias does not count. No value loses all its channels, and one that a 2-D convolution reads keeps a multiple
    of `multiple` of them where that is possible and more than 8 are left.
    """
    classes, stays = spaces.resolve()
    edges = [
        _edge(reading, classes, constants)
        # From the last layer to the first: `spread` then needs few rounds.
        for reading in reversed(list(spaces.readings.values()))
        if reading.inputs is not None
    ]
    # Members once each: a flattened channel has its class many times.
    values = [np.unique(classes[track.ids]) for track in spaces.tracks.values()]
    read = [
        classes[spaces.tracks[name].ids] for name in _inputs_of_convolutions(spaces)
    ]
    while True:
        # 1. What stays needs what it reads.
        spread(edges, stays)
        # 2. A tensor without channels runs nowhere; from the back, as a kept class keeps others before it.
        empty = next(
            (members for members in reversed(values) if not stays[members].any()), None
        )
        # 3. Convolutions on a number of channels that is no multiple take twice as long
        # (`MULTIPLE` in passes.py): dead ones stay to fill up.
        odd = next(
            (members for members in read if _missing(members, stays, multiple) > 0),
            None,
        )
        if empty is not None:
            # One class at a time: what it reads may fill other values.
            stays[_cheapest(empty, edges)[:1]] = True
        elif odd is not None:
            rest = _cheapest(np.unique(odd[~stays[odd]]), edges)
            stays[rest[: _missing(odd, stays, multiple)]] = True
        else:
            return np.asarray(stays[classes])


def _inputs_of_convolutions(spaces: Spaces) -> list[str]:
    """Tracked images that a Conv reads."""
    read = dict.fromkeys(
        node.input[0] for node in spaces.view.nodes if node.op_type == "Conv"
    )
    return [
        name for name in read if name in spaces.tracks and spaces.tracks[name].rank == 4
    ]


def _missing(members: Ids, stays: Mask, multiple: int) -> int:
    """How many channels to keep beyond those that must stay; 0 where there are too few to reach a multiple."""
    left = int(stays[members].sum())
    # Up to the next multiple; where the value has not that many channels nothing is gained.
    more = -left % multiple
    return more if left > _FEW and left + more <= members.size else 0


def _edge(reading: Reading, classes: Ids, constants: Constants | None) -> Edge:
    assert reading.inputs is not None
    reads = reading.nonzero
    if constants is not None:
        values = constants.of(reading.node.input[0])
        # A constant that moves into the reader's bias is no read. At a padded border only zero can.
        folds = ~np.isnan(values) if reading.folds_any else values == 0
        reads = reads & ~folds
    return Edge(classes[reading.inputs], classes[reading.outputs], reads)


def _cheapest(members: Ids, edges: list[Edge]) -> list[int]:
    """The classes by how many channels they read: constant ones read none. Ties by index."""
    cost: dict[int, int] = dict.fromkeys(members.tolist(), 0)
    for edge in edges:
        # A class may be made by several layers (the addends of a sum): their reads add up.
        for place in np.flatnonzero(np.isin(edge.outputs, members)):
            cost[int(edge.outputs[place])] += int(edge.reads[place].sum())
    return sorted(cost, key=lambda member: (cost[member], member))
