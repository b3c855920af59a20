"""Maximum pooling in NCHW, as an operator of this package: between sparse layers nothing need be converted for it."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import NodeProto, helper

from sparsify_fx.runtime.candidates import DOMAIN, attributes

POOL = "MaxPool"
DENSE_VALUE, OWN_VALUE = 0.17, 0.15
"""Nanoseconds for each value read or written: onnxruntime in its own order, and this operator."""

_SHARED = ("kernel_shape", "strides", "pads")
_PLAIN: Mapping[str, object] = {
    "ceil_mode": 0,
    "storage_order": 0,
    "auto_pad": b"NOTSET",
}


def is_pool(node: NodeProto) -> bool:
    """Whether this is a MaxPool that ours computes: windows of 2 or 3 pixels square, steps of 1 or 2, one output."""
    if node.op_type != POOL or node.domain or len(node.output) != 1:
        return False
    found = attributes(node)
    shape = found.get("kernel_shape", [])
    steps = (
        max(found.get("strides", [1])) <= 2 and max(found.get("dilations", [1])) == 1
    )
    # A pad as wide as the window would make windows of padding alone, which have no
    # maximum.
    fits = (
        list(shape) in ([2, 2], [3, 3])
        and steps
        and max(found.get("pads", [0])) < shape[0]
    )
    return fits and all(
        found.get(name, value) == value for name, value in _PLAIN.items()
    )


def pool_node(node: NodeProto) -> NodeProto:
    """The MaxPool of this package that does the same on NCHW; dilations of 1 and defaults are left out."""
    found = {name: value for name, value in attributes(node).items() if name in _SHARED}
    return helper.make_node(
        POOL, node.input, node.output, name=node.name, domain=DOMAIN, **found
    )


def standard_pool(node: NodeProto) -> NodeProto:
    """The MaxPool of our operator; any other node as it is."""
    if node.op_type != POOL or node.domain != DOMAIN:
        return node
    return helper.make_node(
        POOL, node.input, node.output, name=node.name, **attributes(node)
    )
