"""Encoding gap: the zeros between two values as codes, summed up by standard operators."""

from __future__ import annotations

import math

import numpy as np

from sparsify_fx.onnx_export.storage.codecs.encoding import Encoding, shaped
from sparsify_fx.onnx_export.storage.codecs.parts import Parts
from sparsify_fx.onnx_export.storage.codecs.patches import best_codes, patched_places
from sparsify_fx.onnx_export.storage.codecs.streams import (
    best_streams,
    summed,
    unpooled,
)
from sparsify_fx.onnx_export.storage.codecs.values import (
    Array,
    Quantized,
    ValueKind,
    bits_of,
)

_WORTH = 1.05  # how much larger streams may be than codes with patches: they load in less time and memory


def _refuses(stored: Quantized, values: ValueKind) -> str | None:
    return "it has 2**31 entries or more" if stored.codes.size >= 2**31 else None


def _encode(stored: Quantized, values: ValueKind) -> Parts:
    parts, flat = Parts(), np.ascontiguousarray(stored.codes).reshape(-1)
    # Scales are applied to the values already, so the shape alone is left to give.
    rebuilt = _streamed(parts, flat, stored, values) or _patched(
        parts, flat, stored, values
    )
    shaped(parts, rebuilt, Quantized(stored.codes, stored.dtype))
    return parts


def _streamed(
    parts: Parts, flat: Array, stored: Quantized, values: ValueKind
) -> str | None:
    """max_unpool(value, place), or None where patches are better. MaxUnpool knows float32 only."""
    kept = stored.places()
    if stored.dtype != np.float32 or not kept.size:
        return None
    # Compared by cost before any node is made: parts cannot be taken back.
    most = _WORTH * best_codes(kept, values.bits).cost(values.bits)
    streams = best_streams(kept, flat.size, values.bits)
    if streams is None or streams.cost(values.bits) > most:
        return None
    place, updates = summed(parts, streams), values.store(parts, flat[streams.places])
    return unpooled(parts, _scaled(parts, updates, place, stored), place, streams)


def _patched(parts: Parts, flat: Array, stored: Quantized, values: ValueKind) -> str:
    """zeros.scatter(place, value)."""
    zeros, kept = _zeros(parts, stored), stored.places()
    if not kept.size:
        return zeros
    gaps = best_codes(kept, bits_of(values, stored))
    place = patched_places(parts, gaps)
    updates = values.store(parts, flat[gaps.places])
    return parts.node(
        "ScatterElements",
        [zeros, place, _scaled(parts, updates, place, stored)],
        "flat",
        {"axis": 0},
    )


def _zeros(parts: Parts, stored: Quantized) -> str:
    """A vector of as many zeros as the weight has entries."""
    shape, zero = stored.codes.shape, stored.zero
    # One zero for the whole weight can be filled in by size, and shared with weights of
    # that size.
    if zero is not None:
        return parts.filled(stored.codes.size, zero)
    assert stored.background is not None
    points = parts.own("zero_points", stored.background)
    sizes = parts.share("shape." + "_".join(map(str, shape)), np.array(shape, np.int64))
    everywhere = parts.node("Expand", [points, sizes], "all_zeros")
    return parts.node(
        "Reshape",
        [everywhere, parts.share("one_axis", np.array([-1], np.int64))],
        "zeros",
    )


def _scaled(parts: Parts, updates: str, place: str, stored: Quantized) -> str:
    """values * scale[channel], channel = place // inner % channels: less memory than to scale the whole weight."""
    if stored.scale is None:
        return updates
    scale, shape = stored.scale, stored.codes.shape
    # The one axis that is longer than 1; with a single channel any will do, its only
    # index being 0 by the Mod below.
    axis = int(np.argmax(scale.shape))
    channel, inner = place, math.prod(shape[axis + 1 :])
    if inner > 1:
        channel = parts.node(
            "Div",
            [channel, parts.share(f"inner.{inner}", np.array(inner, np.int32))],
            "outer",
        )
    # With the channels outermost the quotient is the channel already.
    if math.prod(shape[:axis]) > 1 or scale.size == 1:
        channel = parts.node(
            "Mod",
            [
                channel,
                parts.share(f"channels.{scale.size}", np.array(scale.size, np.int32)),
            ],
            "channel",
        )
    scales = parts.node(
        "Gather", [parts.own("channel_scale", scale.reshape(-1)), channel], "scale_v"
    )
    return parts.node("Mul", [updates, scales], "scaled")


GAP = Encoding("gap", 11, _refuses, _encode)
"""5.9 bits a value at density 0.1 (entropy 4.7), 7.3 at 0.05 (5.7), 8.2 at 0.02 (7.1), with raw fp32 values."""
