"""Products of computed tensors: attention, head by head.

q kᵀ        q and k [..., head, n, d]: all d of a head live or die together, and so do q and k; the scores are
            the head's
scores v    a head's scores and its values live or die together
rows        where one operand alone has channels, and they are not summed over, they pass
einsum      the same, by letters: heads are those that are in both operands and in the result
"""

from __future__ import annotations

import string

import torch
from torch import fx

from sparsify_fx.coupling.rules.base import Rule, arguments, over_one, shape_of
from sparsify_fx.coupling.rules.layers import times_weight
from sparsify_fx.coupling.tracks import Tracks, Value


def _heads(value: Value, axes: tuple[int, ...], tracks: Tracks) -> Value:
    """One id for everything of a head: along all axes but those of the heads."""
    tracks.heads.append(torch.unique(value.ids))
    return tracks.unify(value, axes)


def _matmul(node: fx.Node, tracks: Tracks) -> Value | None:
    made = times_weight(node, tracks)
    if made is not None:
        return made
    ranks = [len(tracks.value(arg).shape) for arg in node.args[:2]]
    if min(ranks) < 2 or ranks[0] != ranks[1]:
        return None
    batch = string.ascii_lowercase[: ranks[0] - 2]
    return _product(node, node.args[:2], f"{batch}XZ,{batch}ZY->{batch}XY", tracks)


def _einsum(node: fx.Node, tracks: Tracks) -> Value | None:
    equation, operands = str(node.args[0]).replace(" ", ""), node.args[1]
    usual = "->" in equation and "." not in equation
    if not usual or not isinstance(operands, (list, tuple)) or len(operands) != 2:
        return None
    return _product(node, operands, equation, tracks)


def _product(node: fx.Node, operands: object, equation: str, tracks: Tracks) -> Value | None:  # fmt: skip
    """The ids of a product that is written with letters for the axes."""
    given, result = equation.split("->")
    letters = given.split(",")
    assert isinstance(operands, (list, tuple))
    values = [tracks.value(arg) for arg in operands]
    if any(len(set(mine)) < len(mine) for mine in (*letters, result)):
        return None
    sides = [_varying(v, mine) for v, mine in zip(values, letters, strict=True)]
    both = set(letters[0]) & set(letters[1]) & set(result)
    # 1. One operand alone has channels, along axes that the result has: they pass.
    for own, other in ((0, 1), (1, 0)):
        if sides[own] and not sides[other] and sides[own] <= set(result) - both:
            return _placed(values[own], letters[own], result, shape_of(node))
    # 2. Heads. Without them nothing tells that an entry of one operand may go: it stays.
    heads = (sides[0] | sides[1]) & both
    if not heads or not _same_sizes(values, letters, both):
        return None
    for place, (value, mine) in enumerate(zip(values, letters, strict=True)):
        axes = tuple(i for i, letter in enumerate(mine) if letter not in heads)
        values[place] = _placed(_heads(value, axes, tracks), mine, result, shape_of(node))  # fmt: skip
    tracks.join(values[0].ids, values[1].ids)
    larger = max(values, key=lambda value: len(value.varying))
    return Value(larger.ids, shape_of(node))


def _varying(value: Value, letters: str) -> set[str]:
    return {letters[axis] for axis in value.varying}


def _same_sizes(values: list[Value], letters: list[str], both: set[str]) -> bool:
    first, second = (
        dict(zip(mine, value.shape, strict=True))
        for mine, value in zip(letters, values, strict=True)
    )
    return all(first[letter] == second[letter] for letter in both)


def _placed(value: Value, letters: str, result: str, shape: tuple[int, ...]) -> Value:
    """The ids along the axes of the result, none of which tells others apart than those that it has."""
    kept = [axis for axis, letter in enumerate(letters) if letter in result]
    dropped = [axis for axis in range(len(letters)) if axis not in kept]
    order = sorted(kept, key=lambda axis: result.index(letters[axis]))
    ids = value.ids.permute(*order, *dropped)
    sizes = dict(zip((letters[axis] for axis in order), ids.shape, strict=False))
    return Value(ids.reshape([sizes.get(letter, 1) for letter in result]), shape)


def _attention(node: fx.Node, tracks: Tracks) -> Value | None:
    given = arguments(node)
    parts = [tracks.value(given[name]) for name in ("query", "key", "value")]
    if parts[1].shape[-2] == 1:
        return over_one(node, tracks)
    rank = len(parts[0].shape)
    batch = range(rank - 2)
    if given.get("enable_gqa"):
        parts = [_for_queries(part, parts[0].shape) for part in parts]
    if len({part.shape[:-2] for part in parts}) > 1:
        return None
    if given.get("attn_mask") is not None:
        mask = tracks.value(given["attn_mask"])
        if len(mask.shape) != rank:
            tracks.pin(mask)
        else:
            parts.append(mask)
    parts = [_heads(part, (rank - 2, rank - 1), tracks) for part in parts]
    for part in parts[1:]:
        # A mask for all heads is no head's own.
        if any(parts[0].varies(axis) and part.shape[axis] == 1 for axis in batch):
            tracks.pin(part)
        else:
            tracks.join(parts[0].ids, part.ids)
    largest = max(parts, key=lambda part: len(part.varying))
    return Value(largest.ids, shape_of(node))


def _for_queries(value: Value, queries: tuple[int, ...]) -> Value:
    """Keys or values of fewer heads than the queries have, each of which serves so many of those in a row."""
    axis = len(queries) - 3
    if value.shape[axis] == queries[axis]:
        return value
    ids = value.ids
    if value.varies(axis):
        ids = ids.repeat_interleave(queries[axis] // value.shape[axis], axis)
    return Value(ids, (*value.shape[:axis], queries[axis], *value.shape[axis + 1 :]))


PRODUCTS: dict[str, Rule] = {
    **dict.fromkeys(("matmul", "bmm"), _matmul),
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
}
