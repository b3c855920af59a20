"""Removal of channels: what belongs together, what is constant, what must stay, and the slicing itself."""

from sparsify_fx.passes.onnx_graph.channels.passes import (
    DEAD_CHANNELS,
    UNREAD_CHANNELS,
    track_channels,
)

__all__ = ["DEAD_CHANNELS", "UNREAD_CHANNELS", "track_channels"]
