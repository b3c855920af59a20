"""Encoding gap: the zeros between two values as codes, summed up by standard operators."""

from __future__ import annotations

import math

import numpy as np

from sparsify_fx.onnx_export.storage.codecs.encoding import (
    Encoding,
    as_floats,
    reshaped,
    scale_of,
)
from sparsify_fx.onnx_export.storage.codecs.parts import OUTPUT, Parts
from sparsify_fx.onnx_export.storage.codecs.patches import best_codes, patched_places
from sparsify_fx.onnx_export.storage.codecs.streams import (
    Streams,
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


def _encode(stored: Quantized, values: ValueKind, operators: frozenset[str]) -> Parts:
    parts, flat = Parts(), np.ascontiguousarray(stored.codes).reshape(-1)
    kept = stored.places()
    if not kept.size:
        rebuilt = _zeros(parts, stored)
    elif (streams := _streams(stored, values, kept, "MaxUnpool" in operators)) is None:
        gaps = best_codes(kept, bits_of(values, stored))
        place = patched_places(parts, gaps)
        rebuilt = _scattered(parts, flat[gaps.places], place, stored, values)
    elif streams.kernel is not None:
        place = summed(parts, streams)
        updates = _scaled(parts, flat[streams.places], place, stored, values)
        rebuilt = unpooled(parts, updates, place, streams.kernel)
    else:
        one_axis = parts.share("one_axis", np.array([-1], np.int64))
        place = parts.node("Reshape", [summed(parts, streams), one_axis], "places")
        rebuilt = _scattered(
            parts, flat[streams.places.reshape(-1)], place, stored, values
        )
    # Scales are applied to the values already, so the shape alone is left to give.
    reshaped(parts, rebuilt, stored.codes.shape, OUTPUT)
    return parts


def _streams(
    stored: Quantized, values: ValueKind, kept: Array, pooled: bool
) -> Streams | None:
    """Streams of the places, or None where patches are better; MaxUnpool, if it may be used, knows float32 only."""
    bits, size = bits_of(values, stored), stored.codes.size
    most = _WORTH * best_codes(kept, bits).cost(bits)
    for unpool in (True, False) if pooled and stored.dtype == np.float32 else (False,):
        streams = best_streams(kept, size, bits, pooled=unpool)
        # Compared by cost before any node is made: parts cannot be taken back.
        if streams is not None and streams.cost(bits) <= most:
            return streams
    return None


def _scattered(
    parts: Parts, codes: Array, place: str, stored: Quantized, values: ValueKind
) -> str:
    """zeros.scatter(place, value)."""
    updates = _scaled(parts, codes, place, stored, values)
    inputs = [_zeros(parts, stored), place, updates]
    return parts.node("ScatterElements", inputs, "flat", {"axis": 0})


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


def _scaled(
    parts: Parts, codes: Array, place: str, stored: Quantized, values: ValueKind
) -> str:
    """values * scale[channel], channel = place // inner % channels: less memory than to scale the whole weight."""
    kept = values.store(parts, codes)
    if stored.codes.dtype == stored.dtype and stored.scale is None:
        return kept
    scales = None if stored.scale is None else _scales(parts, place, stored)
    return as_floats(parts, kept, stored, scales, "values_f")


def _scales(parts: Parts, place: str, stored: Quantized) -> str:
    """The scale of each value, by its place."""
    each = scale_of(parts, stored, flat=True)
    assert stored.scale is not None
    assert each is not None
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
    return parts.node("Gather", [each, channel], "scale_v")


GAP = Encoding("gap", 11, _refuses, _encode)
"""5.9 bits a value at density 0.1 (entropy 4.7), 7.3 at 0.05 (5.7), 8.2 at 0.02 (7.1), with raw fp32 values."""
