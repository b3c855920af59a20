"""drop-identities: nodes that return their input."""

from __future__ import annotations

import numpy as np
import onnx

from sparsify_fx.onnx_tools.view import GraphView, attribute, input_of, is_standard
from sparsify_fx.passes.onnx_graph.base import GraphPass


def drop_identities(model: onnx.ModelProto) -> bool:
    """Remove nodes that return their first input bit for bit; their readers read the input.

    1. Identity.
    2. Dropout that is not told to train.
    3. Transpose whose order is 0, 1, 2, ...
    4. Concat of one value.
    5. Pad by zero entries at every side, as a constant.

    A node stays when it makes a graph output or a value that a subgraph reads, as the interface keeps its names, and
    when anything reads one of its further outputs, such as the mask of Dropout.
    """
    view = GraphView(model)
    dead = []
    for index, node in enumerate(view.nodes):
        outputs = [name for name in node.output if name]
        unread = all(not view.uses.get(name) for name in outputs[1:])
        if (
            outputs
            and unread
            and view.fixed.isdisjoint(outputs)
            and is_identity(node, view)
        ):
            view.reroute(outputs[0], node.input[0])
            # What read the output reads the input now, which later nodes of this loop must know.
            view.uses[node.input[0]] += view.uses.pop(outputs[0], [])
            dead.append(index)
    # From the end, so that the places of the others hold.
    for index in reversed(dead):
        del model.graph.node[index]
    return bool(dead)


def is_identity(node: onnx.NodeProto, view: GraphView) -> bool:
    """Whether the first output equals the first input, bit for bit."""
    if is_standard(node, "Identity"):
        return True
    if is_standard(node, "Dropout"):
        # Input 2 is `training_mode`; before opset 7 the attribute `is_test` decided it.
        return not input_of(node, 2) and view.opset >= 7
    if is_standard(node, "Transpose"):
        # Without an order Transpose reverses all axes.
        order = attribute(node, "perm")
        return order is not None and list(order) == sorted(order)
    if is_standard(node, "Concat"):
        return len(node.input) == 1
    if is_standard(node, "Pad"):
        pads = (
            view.constant(input_of(node, 1))
            if len(node.input) > 1
            else attribute(node, "pads")
        )
        return pads is not None and not np.any(pads)
    return False


DROP_IDENTITIES = GraphPass("drop-identities", drop_identities, exact=True)
