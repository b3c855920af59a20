"""Tickets: the mask that a pruning would have chosen at the last look, and how far such masks lay from each other."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from sparsify_fx.distributed.ranks import mean_number
from sparsify_fx.schedules.updates import Settled

_LOG = logging.getLogger(__name__)


@dataclass
class Tickets:
    """What a training has to remember between two looks at its mask.

    Attributes:
        masks: of the last look, whole also where weights are sharded; empty before the first.
        distances: between the masks of looks that follow each other, the newest last.
        drawn: whether a mask was chosen, after which nothing is looked at.
    """

    masks: dict[str, Tensor] = field(default_factory=dict)
    distances: list[float] = field(default_factory=list)
    drawn: bool = False

    def look(self, masks: dict[str, Tensor], rule: Settled) -> bool:
        """Take the masks of now; whether the last `rule.distances` distances are all at most `rule.below`."""
        if self.masks:
            found = mask_distance(self.masks, masks, rule.of)
            # A criterion may read data of the rank's own, and all ranks have to draw at the same look.
            mean = mean_number(found, "the distance of masks")
            assert mean is not None
            self.distances = [*self.distances, mean][-rule.distances :]
            _LOG.debug("distances of masks: %s", self.distances)
        self.masks = masks
        full = len(self.distances) == rule.distances
        settled = full and max(self.distances) <= rule.below
        if settled:
            _LOG.info("the mask has settled: %s", self.distances)
        return settled

    def close(self) -> None:
        """A mask was chosen; those of the looks can go."""
        self.masks, self.drawn = {}, True

    def state(self) -> dict[str, Any]:
        """For a checkpoint; empty before the first look."""
        if not (self.masks or self.drawn):
            return {}
        return {
            "masks": dict(self.masks),
            "distances": list(self.distances),
            "drawn": self.drawn,
        }

    def as_entry(self) -> dict[str, Any]:
        """The state under its key; nothing before the first look: states of other methods have no such key."""
        found = self.state()
        return {"tickets": found} if found else {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.masks = dict(state.get("masks", {}))
        self.distances = list(state.get("distances", ()))
        self.drawn = bool(state.get("drawn", False))


def mask_distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor], of: str) -> float:
    """|A △ B| over all layers, as a share of |A| + |B| ("kept") or of the number of entries ("all"); in [0, 1].

    >>> import torch
    >>> a, b = {"w": torch.tensor([1, 1, 0, 0])}, {"w": torch.tensor([1, 0, 1, 0])}
    >>> mask_distance(a, b, "kept"), mask_distance(a, b, "all")
    (0.5, 0.5)

    Source: [You 2020], section 4.1 ("all").
    """
    differ = base = 0
    for name, mask in a.items():
        other = b[name].to(mask.device)
        differ += int((mask != other).sum())
        base += mask.numel() if of == "all" else int(mask.sum()) + int(other.sum())
    return differ / base if base else 0.0
