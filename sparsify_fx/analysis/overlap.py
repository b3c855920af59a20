"""Mask overlap: how much two masks have in common, and how much they would by chance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Overlap:
    """Two masks of `weights` entries. kept_a, kept_b: what each keeps; both: what both keep.

    by_chance: the `both` to expect of independent masks with as many entries in each layer.
    """

    weights: int
    kept_a: int
    kept_b: int
    both: int
    by_chance: float

    @property
    def iou(self) -> float:
        """`|A ∩ B| / |A ∪ B|`; 1.0 when both are empty."""
        return _ratio(self.both, self.kept_a + self.kept_b)

    @property
    def chance_iou(self) -> float:
        """The same for the expected intersection."""
        return _ratio(self.by_chance, self.kept_a + self.kept_b)


def mask_overlap(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor]
) -> dict[str, Overlap]:
    """Intersection over union of two sets of masks, layer by layer.

    `E|A ∩ B| = |A| · |B| / n` for independent masks that keep `|A|` and `|B|` of n entries.

    Args:
        a, b: masks of the same names and shapes, non-zero where a weight is kept.

    Raises ValueError for other names or shapes.

    >>> import torch
    >>> layer = mask_overlap({"w": torch.tensor([1, 1, 0, 0])}, {"w": torch.tensor([0, 1, 1, 0])})["w"]
    >>> round(layer.iou, 3), round(layer.chance_iou, 3)
    (0.333, 0.333)
    """
    if a.keys() != b.keys() or any(a[name].shape != b[name].shape for name in a):
        raise ValueError(
            "the masks have different names or shapes; compare runs of one model"
        )
    # Chance knows the layers: masks that both empty one layer overlap more than two that are drawn from all
    # weights, which is no finding about single weights.
    found = {}
    for name in a:
        first, second = a[name].bool(), b[name].bool()
        total, kept_a, kept_b = first.numel(), int(first.sum()), int(second.sum())
        found[name] = Overlap(
            total,
            kept_a,
            kept_b,
            int((first & second).sum()),
            # An empty tensor has nothing by chance either.
            kept_a * kept_b / max(total, 1),
        )
    return found


def total_overlap(layers: Iterable[Overlap]) -> Overlap:
    """All layers together; what is by chance still knows how many weights each layer keeps.

    >>> total_overlap([Overlap(4, 2, 2, 1, 1.0), Overlap(4, 4, 4, 4, 4.0)]).iou
    0.7142857142857143
    """
    listed = list(layers)
    return Overlap(
        sum(layer.weights for layer in listed),
        sum(layer.kept_a for layer in listed),
        sum(layer.kept_b for layer in listed),
        sum(layer.both for layer in listed),
        sum(layer.by_chance for layer in listed),
    )


def _ratio(both: float, kept: int) -> float:
    """both / (kept − both), where `kept` counts what both keep twice."""
    return both / (kept - both) if kept else 1.0
