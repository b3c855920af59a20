"""What the channel passes know about an operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from sparsify_fx.passes.onnx_graph.channels.spaces import Spaces

if TYPE_CHECKING:
    from sparsify_fx.passes.onnx_graph.channels.constants import Constants
    from sparsify_fx.passes.onnx_graph.channels.removal import Removal

Values = NDArray[np.float64]
"""The constant that each channel of a value equals everywhere; NaN for a channel that is not constant."""


@dataclass(frozen=True)
class Kind:
    """How an operator treats channels.

    `track(node, spaces)`: give its outputs tracks and tie them to those of its inputs; False, before anything was
    tied, where the node is not understood: the channels of its inputs then stay, its outputs are not tracked.
    `constants(node, constants)`: the constants of the tracked outputs, in order.
    `remove(node, removal)`: slice the node's own constants and attributes; called when its channels shrink.
    """

    # `track` alone decides whether a node is understood; the other two may assert what it checked.
    track: Callable[[onnx.NodeProto, Spaces], bool]
    constants: Callable[[onnx.NodeProto, Constants], list[Values]]
    remove: Callable[[onnx.NodeProto, Removal], None]


def nothing_to_slice(node: onnx.NodeProto, removal: Any) -> None:
    """For operators without constants or sizes that depend on the channels: they run on what they are given."""
