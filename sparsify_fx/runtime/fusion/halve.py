"""Slices that keep every second pixel of every second line, and zeros for channels: a shortcut without weights."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from sparsify_fx.onnx_tools.view import GraphView, attribute
from sparsify_fx.runtime.candidates import DOMAIN, attributes

HALVE = "HalvePlanes"

_FAR = 2**31 - 1  # from here on the end of a slice is that of the image
_AXES = (2, 3)


def halves_of(
    model: onnx.ModelProto,
) -> dict[str, tuple[tuple[NodeProto, ...], NodeProto]]:
    """By the name of their result: the nodes of each such shortcut, and the operator that does the same on planes."""
    view = GraphView(model)
    # An initializer that is an input too may be another in the next run.
    given = {item.name for item in model.graph.input}
    constants = {
        tensor.name: tensor
        for tensor in model.graph.initializer
        if tensor.name not in given
    }
    found = {}
    for node in model.graph.node:
        axes = _halved(node, constants)
        if not axes:
            continue
        nodes, last = [node], view.only_reader(node.output[0])
        # Both axes in one Slice, or one after another: exporters write either.
        if len(axes) == 1 and last is not None:
            axes |= _halved(last, constants)
            nodes, last = [*nodes, last], view.only_reader(last.output[0])
        if axes != set(_AXES) or len(nodes) > 2:
            continue
        # The zeros for channels are optional: a projection-free shortcut that keeps its
        # channels has none.
        zeros = _channels(last, constants) if last is not None else None
        nodes += [last] if last is not None and zeros is not None else []
        before, after = zeros or (0, 0)
        output = nodes[-1].output[0]
        added = helper.make_node(
            HALVE, [node.input[0]], [output], name=node.name, domain=DOMAIN
        )
        added.attribute.extend(
            helper.make_attribute(name, n)
            for name, n in (("before", before), ("behind", after))
        )
        found[output] = (tuple(nodes), added)
    return found


def standard_halves(
    node: NodeProto, constants: dict[str, TensorProto]
) -> list[NodeProto]:
    """The standard operators of ours, with the constants that they read added to `constants`."""

    def constant(*values: int) -> str:
        name = "sparsify_fx." + "_".join(map(str, values))
        constants[name] = helper.make_tensor(
            name, TensorProto.INT64, [len(values)], values
        )
        return name

    found, output = attributes(node), node.output[0]
    before, after = found.get("before", 0), found.get("behind", 0)
    sliced = f"{output}.sparsify_fx.halved" if before or after else output
    limits = [constant(0, 0), constant(_FAR, _FAR), constant(*_AXES), constant(2, 2)]
    nodes = [
        helper.make_node("Slice", [node.input[0], *limits], [sliced], name=node.name)
    ]
    if before or after:
        nodes.append(
            helper.make_node(
                "Pad", [sliced, constant(0, before, 0, 0, 0, after, 0, 0)], [output]
            )
        )
    return nodes


def _halved(node: NodeProto, constants: Mapping[str, TensorProto]) -> set[int]:
    """The axes of an image of which a Slice keeps every second place; empty for any other node."""
    if (
        node.op_type != "Slice"
        or node.domain
        or len(node.input) != 5
        or any(n not in constants for n in node.input[1:])
    ):
        return set()
    starts, ends, axes, steps = (
        numpy_helper.to_array(constants[name]).tolist() for name in node.input[1:]
    )
    whole = not any(starts) and min(ends) >= _FAR and set(steps) == {2}
    return set(axes) if whole and set(axes) <= set(_AXES) else set()


def _channels(
    node: NodeProto, constants: Mapping[str, TensorProto]
) -> tuple[int, int] | None:
    """How many channels of zeros a Pad adds before and after; None for any other node."""
    value = node.input[2] if len(node.input) > 2 else ""
    zero = not value or (
        value in constants and not numpy_helper.to_array(constants[value]).any()
    )
    plain = (
        node.op_type == "Pad"
        and not node.domain
        and attribute(node, "mode", "constant") == "constant"
    )
    if not plain or not zero or len(node.input) > 3 or node.input[1] not in constants:
        return None
    pads = numpy_helper.to_array(constants[node.input[1]]).tolist()
    # Only the axis of channels may be padded, and not cut, which is what a negative pad
    # does.
    fits = (
        len(pads) == 8
        and not any(pads[i] for i in (0, 2, 3, 4, 6, 7))
        and min(pads) >= 0
    )
    return (pads[1], pads[5]) if fits else None
