"""constant-branches: operands of sums and products that are constant as a whole."""

from __future__ import annotations

import numpy as np
import onnx

from sparsify_fx.onnx_tools.view import is_standard
from sparsify_fx.passes.onnx_graph.base import GraphPass
from sparsify_fx.passes.onnx_graph.channels.constants import Constants, find_constants
from sparsify_fx.passes.onnx_graph.channels.passes import KINDS, track_channels


def replace_constant_branches(model: onnx.ModelProto) -> bool:
    """Replace an operand of Add, Sub, Mul that is constant in every channel by a small constant.

    So a residual block whose last layer has no weights left becomes its shortcut.
        1. x + 0, 0 + x, x - 0: the node goes, and its readers read x, unless the graph's interface needs its name.
        2. Otherwise the operand becomes a constant [channels, 1, ...], broadcast over the other axes.

    Only where the other operand has the full shape of the result already, all of it known: a constant of few entries
    would make the result smaller. What computed the operand goes with drop-unused.
    """
    # Which channels are constant, as dead-channels knows it: followed through the whole graph.
    constants = find_constants(track_channels(model), KINDS)
    view, dead, changed = constants.view, [], False
    for index, node in enumerate(view.nodes):
        place = _constant_operand(node, constants)
        if place is None:
            continue
        changed, other = True, node.input[1 - place]
        values = constants.of(node.input[place]).astype(np.float32)
        adds_nothing = not values.any() and (
            node.op_type == "Add" or (node.op_type == "Sub" and place == 1)
        )
        if adds_nothing and view.fixed.isdisjoint(node.output):
            view.reroute(node.output[0], other)
            # Readers of the sum read `other` now, which later nodes of this loop must know.
            view.uses[other] += view.uses.pop(node.output[0], [])
            dead.append(index)
        else:
            track = constants.spaces.tracks[node.input[place]]
            # Axes before the channels are left out: broadcasting puts them back.
            shape = (track.size, *([1] * (track.rank - track.axis - 1)))
            node.input[place] = view.add(
                f"{node.input[place]}_constant", values.reshape(shape)
            )
    for index in reversed(dead):
        del model.graph.node[index]
    return changed


def _constant_operand(node: onnx.NodeProto, constants: Constants) -> int | None:
    """Which of the two inputs is constant throughout, while the other one has the shape of the result."""
    spaces = constants.spaces
    if not is_standard(node, "Add", "Sub", "Mul") or any(
        name not in spaces.tracks for name in node.input
    ):
        return None
    # An unknown size (None) could be 1 on one side, where broadcasting would need the other operand.
    left, right = (spaces.shapes.get(name) for name in node.input)
    if left is None or left != right or None in left:
        return None
    # The right operand first: the only one that a difference can drop.
    for place in (1, 0):
        if not np.isnan(constants.of(node.input[place])).any():
            return place
    return None


CONSTANT_BRANCHES = GraphPass(
    "constant-branches", replace_constant_branches, exact=False
)
