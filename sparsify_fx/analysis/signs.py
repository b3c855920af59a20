"""Signs of weights: which flipped between two points of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SignFlips:
    """How many of `weights` compared weights changed their sign."""

    flips: int
    weights: int

    @property
    def share(self) -> float:
        """flips / weights; 0.0 when there was nothing to compare."""
        return self.flips / self.weights if self.weights else 0.0


def sign_flips(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    mask: Mapping[str, Tensor],
) -> SignFlips:
    """Count the weights with sign(before) · sign(after) = −1 among those that the mask keeps.

    Args:
        before, after: weights by name; only the names of `mask` are read.
        mask: by name, non-zero where a weight is kept.

    Raises KeyError for a name that `before` or `after` lacks, ValueError for tensors of different shapes.

    >>> one = torch.ones(4)
    >>> sign_flips({"w": one}, {"w": torch.tensor([1.0, -1, -1, 0])}, {"w": torch.tensor([1, 1, 0, 1])})
    SignFlips(flips=1, weights=3)

    Source: [Gadhikar 2025], section 3 and Fig. 1.
    """
    # Summed over layers, not averaged: the share is that of all weights.
    found = sign_flips_by_layer(before, after, mask).values()
    return SignFlips(
        sum(layer.flips for layer in found), sum(layer.weights for layer in found)
    )


def sign_flips_by_layer(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    mask: Mapping[str, Tensor],
) -> dict[str, SignFlips]:
    """`sign_flips` of each weight tensor by its name; the same arguments and errors.

    >>> sign_flips_by_layer({"w": torch.ones(2)}, {"w": torch.tensor([1.0, -1])}, {"w": torch.ones(2)})
    {'w': SignFlips(flips=1, weights=2)}

    Source: [Gadhikar 2025], Fig. 8.
    """
    found = {}
    for name, kept in mask.items():
        old, new = before[name], after[name]
        # Shapes that broadcast would be compared without an error, and counted wrong.
        if not old.shape == new.shape == kept.shape:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (old, new, kept))
            raise ValueError(
                f"{name}: before, after and mask must have one shape, got {shapes}"
            )
        # The product of signs is -1 only between opposite ones: a zero on either side is no flip.
        keep = kept.bool()
        flips = int(((torch.sign(old) * torch.sign(new) < 0) & keep).sum())
        found[name] = SignFlips(flips, int(keep.sum()))
    return found


def without_sign(weights: Mapping[str, Tensor], mask: Mapping[str, Tensor]) -> int:
    """The number of kept weights that are zero in `weights`, so that nothing can flip from there.

    >>> without_sign({"w": torch.tensor([0.0, 1.0, 0.0])}, {"w": torch.tensor([1, 1, 0])})
    1
    """
    return sum(
        int(((weights[name] == 0) & kept.bool()).sum()) for name, kept in mask.items()
    )
