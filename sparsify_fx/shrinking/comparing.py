"""Whether outputs are those that were expected."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

_ORDINARY = 1e6
"""Larger outputs are compared by themselves: a logit of -1e9 for what is impossible must hide no other."""


def difference(
    found: list[Tensor], expected: list[Tensor], tolerance: float, least: float
) -> str:
    """How outputs differ from those that were expected; empty where they do not.

    Each entry may differ by `tolerance` times the largest ordinary output of its tensor, or times itself if it is
    larger than those. Equal infinities do not differ.

    Args:
        least: what the largest ordinary output is taken for, if it is smaller.

    >>> difference([torch.ones(2)], [torch.tensor([1.0, 1.1])], 1e-6, 1.0)
    'outputs differ by 0.1'
    """
    if [value.shape for value in found] != [value.shape for value in expected]:
        return "outputs of other shapes"
    if not found:
        return "the outputs hold no tensors that could be compared"
    for value, wanted in zip(found, expected, strict=True):
        if value.numel():
            error, allowed = _errors(_wide(value), _wide(wanted), least)
            # Written so that NaN is a failure.
            wrong = ~(error <= tolerance * allowed)
            if bool(wrong.any()):
                return f"outputs differ by {float(error[wrong].max()):.2g}"
    return ""


def tensors_of(outputs: Any) -> list[Tensor]:
    """The tensors in what a model returns; where there are none, numbers as tensors and those in its objects.

    >>> tensors_of({"loss": torch.ones(1), "steps": 3, "name": "a"})
    [tensor([1.])]
    """
    leaves = pytree.tree_leaves(outputs)
    found = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    seen = set[int]()
    # Dataclasses, and objects such as the distributions that policies return.
    while leaves and not found:
        found = [
            torch.tensor(n) for n in leaves if isinstance(n, int | float | complex)
        ]
        inner = [leaf for leaf in leaves if hasattr(leaf, "__dict__") and id(leaf) not in seen]  # fmt: skip
        seen.update(map(id, inner))
        leaves = pytree.tree_leaves([dict(vars(leaf)) for leaf in inner])
        found += [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    return found


def _wide(value: Tensor) -> Tensor:
    """In double precision, in which truth values and small numbers have differences, too."""
    return value if value.is_complex() else value.double()


def _errors(value: Tensor, expected: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """(the difference of each entry, the size that it is compared with)."""
    error = (value - expected).abs().masked_fill(value == expected, 0.0)
    sizes = expected.abs()
    ordinary = sizes[sizes <= _ORDINARY]
    top = max(least, float(ordinary.max()) if ordinary.numel() else 0.0)
    return error, torch.where(sizes > _ORDINARY, sizes, top)
