"""Layer-wise sparsity, and layers that have collapsed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LayerSparsity:
    """One weight tensor: its entries and how many the mask keeps."""

    weights: int
    kept: int

    @property
    def sparsity(self) -> float:
        """1 − kept / weights."""
        return 1 - self.kept / self.weights

    @property
    def collapsed(self) -> bool:
        """Nothing is left, so no signal passes."""
        return self.kept == 0


def layer_sparsity(masks: Mapping[str, Tensor]) -> dict[str, LayerSparsity]:
    """Sparsity of each layer by name.

    >>> import torch
    >>> layer_sparsity({"w": torch.tensor([1, 0, 0, 0])})["w"].sparsity
    0.75

    Source: [Gadhikar 2025], Fig. 9; layer collapse: [Tanaka 2020].
    """
    # Counted in the mask: a kept weight that is zero by chance is not pruned.
    return {
        name: LayerSparsity(mask.numel(), int(mask.count_nonzero()))
        for name, mask in masks.items()
    }
