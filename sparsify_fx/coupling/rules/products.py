"""Products of computed tensors: attention, head by head.

q kᵀ        q and k [..., head, n, d]: all d of a head live or die together, and so do q and k; the scores are
            the head's
scores v    a head's scores and its values live or die together
"""

from __future__ import annotations

import torch
from torch import fx

from sparsify_fx.coupling.rules.base import Rule, arguments, shape_of
from sparsify_fx.coupling.tracks import Tracks, Value


def _heads(value: Value, tracks: Tracks) -> Value:
    """One id for all rows and columns of a head."""
    last = len(value.shape)
    tracks.heads.append(torch.unique(value.ids))
    return tracks.unify(value, (last - 2, last - 1))


def _matmul(node: fx.Node, tracks: Tracks) -> Value | None:
    first, second = (tracks.value(arg) for arg in node.args[:2])
    shape, rank = shape_of(node), len(shape_of(node))
    batch = range(rank - 2)
    if not rank == len(first.shape) == len(second.shape) >= 3:
        return None
    # Without heads, nothing tells that a row of one operand may go: it stays.
    if not any(first.varies(axis) or second.varies(axis) for axis in batch):
        return None
    if any(first.shape[axis] != second.shape[axis] for axis in batch):
        return None
    first, second = _heads(first, tracks), _heads(second, tracks)
    tracks.join(first.ids, second.ids)
    larger = first if len(first.varying) >= len(second.varying) else second
    return Value(larger.ids, shape)


def _attention(node: fx.Node, tracks: Tracks) -> Value | None:
    given = arguments(node)
    parts = [tracks.value(given[name]) for name in ("query", "key", "value")]
    batch = range(len(parts[0].shape) - 2)
    # Fewer heads of keys than of queries: which belong together is the operator's own rule.
    if len({part.shape[:-2] for part in parts}) > 1:
        return None
    if given.get("attn_mask") is not None:
        mask = tracks.value(given["attn_mask"])
        if len(mask.shape) != len(parts[0].shape):
            tracks.pin(mask)
        else:
            parts.append(mask)
    parts = [_heads(part, tracks) for part in parts]
    for part in parts[1:]:
        # A mask for all heads is no head's own.
        if any(parts[0].varies(axis) and part.shape[axis] == 1 for axis in batch):
            tracks.pin(part)
        else:
            tracks.join(parts[0].ids, part.ids)
    largest = max(parts, key=lambda part: len(part.varying))
    return Value(largest.ids, shape_of(node))


PRODUCTS: dict[str, Rule] = {
    **dict.fromkeys(("matmul", "bmm"), _matmul),
    "scaled_dot_product_attention": _attention,
}
