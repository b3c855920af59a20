"""Keep zeros that a model pads with before a max pooling from becoming minus infinity."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from sparsify_fx.onnx_tools.view import (
    GraphView,
    attribute,
    input_of,
    is_standard,
    set_input,
)

_FIRST_OPSET = 18  # of Pad with axes


def keep_zero_padding(model: onnx.ModelProto) -> int:
    """Name the axes of every Pad of zeros that a MaxPool reads, in place; how many there were.

    onnxruntime (1.31 at least) fuses such a pair into a MaxPool with pads, whose border never wins, although the zeros
    win over negative values; hgnetv2 of timm loses 7 % of its outputs' size that way. It leaves a Pad with explicit
    axes alone, and all axes in their order mean the same as none. Below opset 18 Pad has no axes, and nothing is done:
    there, `export` refuses a file whose outputs differ.
    """
    view = GraphView(model)
    if view.opset < _FIRST_OPSET:
        return 0
    changed = 0
    for node in view.nodes:
        pads = view.constant(input_of(node, 1)) if is_standard(node, "Pad") else None
        if (
            pads is None
            or input_of(node, 3)
            or attribute(node, "mode", "constant") != "constant"
        ):
            continue
        if not any(
            is_standard(reader, "MaxPool") for reader in view.uses[node.output[0]]
        ):
            continue
        axes = numpy_helper.from_array(
            np.arange(pads.size // 2, dtype=np.int64), view.fresh("pad_axes")
        )
        model.graph.initializer.append(axes)
        set_input(node, 3, axes.name)
        changed += 1
    return changed
