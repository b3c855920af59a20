"""Channels and heads, with all that is coupled with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsify_fx.coupling.classes import Ids
from sparsify_fx.errors import MethodError
from sparsify_fx.granularity.ranked import Ranked, table_of
from sparsify_fx.granularity.reductions import Totals, check_reduction
from sparsify_fx.granularity.rounding import rounding_of
from sparsify_fx.sharding import shard, whole

Members = Mapping[str, Mapping[int, Ids]]


@dataclass(frozen=True)
class Channels:
    """Groups of channels stay or go as a whole: rows of the layers that make them, columns of those that read them.

    The groups with the lowest scores go, in all layers together or, with `uniform`, the same fraction of each width of
    the model, until at most `kept` weights are left. The best group of each width always stays.

    Attributes:
        reduction: "l2", "sum", "max" or "mean" over the scores of a group's weights.
        uniform: whether every width loses the same fraction.
        multiple: the channels of a width that loses some are a multiple of it, at least so many.
        members: {weight: {axis: the group of each slice, 0 where it stays}}.
        families: the groups of each width.
    """

    reduction: str = "mean"
    uniform: bool = False
    multiple: int = 1
    members: Members = field(default_factory=dict, repr=False, compare=False)
    families: tuple[Ids, ...] = field(default=(), repr=False, compare=False)

    whole_groups = True

    def __post_init__(self) -> None:
        check_reduction(self.reduction)
        if self.multiple < 1:
            raise MethodError(
                f"channel:{self.multiple}: expected a number of at least 1, such as channel:8"
            )

    def counts(
        self, scores: Mapping[str, Tensor], capacity: Mapping[str, int], kept: int
    ) -> dict[str, int]:
        """Non-zeros of each layer under these groups."""
        return self.ranked(scores).counts(kept)

    def choose(
        self, scores: Mapping[str, Tensor], capacity: Mapping[str, int], kept: int
    ) -> dict[str, Tensor]:
        """The masks; SparsityError where more weights than `kept` are in no group that may go."""
        own, scores = scores, {name: whole(score) for name, score in scores.items()}
        ranked = self.ranked(scores)
        removed = ranked.removed(kept)
        living = {name: ~torch.isneginf(score) for name, score in scores.items()}
        masks = self._masks(living, removed)
        return {name: shard(mask, own[name]) for name, mask in masks.items()}

    def ranked(self, scores: Mapping[str, Tensor]) -> Ranked:
        """The groups in the order in which they go, and what each tensor holds of them."""
        tables = {}
        for name, score in scores.items():
            living = (~torch.isneginf(score.detach())).cpu()
            tables[name] = table_of(living, self.members.get(name, {}))
        found = self.group_scores(scores)
        worst_first = self._worst_first(found)
        rounding = rounding_of(self.multiple, worst_first, self.members)
        return Ranked(self._order(found, worst_first), tables, rounding)

    def least(self, scores: Mapping[str, Tensor]) -> int:
        """The smallest number of weights that can be left."""
        ranked = self.ranked(scores)
        return ranked.left(ranked.rounding(ranked.order))

    def group_scores(self, scores: Mapping[str, Tensor]) -> dict[int, float]:
        """The score of each group that may go."""
        groups = np.concatenate(self.families)
        totals = Totals(int(groups.max()) + 1)
        for name, axes in self.members.items():
            for axis, ids in axes.items():
                slices = scores[name].movedim(axis, 0).flatten(1)
                totals.add(slices, ids)
        found = totals.scores(self.reduction)
        return {int(group): float(found[group]) for group in groups}

    def _worst_first(self, scores: Mapping[int, float]) -> list[Ids]:
        """The groups of each width."""
        return [
            np.array(sorted(family.tolist(), key=lambda g: (scores[g], -g)), np.int64)
            for family in self.families
        ]

    def _order(self, scores: Mapping[int, float], worst_first: Sequence[Ids]) -> Ids:
        """The groups that may go, the worst first; never the best of a width."""
        ranked: list[tuple[float, float, int]] = []
        for family in worst_first:
            for place, group in enumerate(family[:-1].tolist()):
                share = (place + 1) / len(family)
                first = share if self.uniform else scores[group]
                # What is gone already stays gone, and counts first.
                first = first if np.isfinite(scores[group]) else -np.inf
                ranked.append((first, scores[group], group))
        return np.array([group for _, _, group in sorted(ranked)], np.int64)

    def _masks(self, living: Mapping[str, Tensor], removed: Ids) -> dict[str, Tensor]:
        """Ones where a weight lives and none of its groups is removed."""
        masks = {}
        for name, alive in living.items():
            mask = alive.to(torch.uint8)
            for axis, ids in self.members.get(name, {}).items():
                gone = torch.from_numpy(np.isin(ids, removed)).to(mask.device)
                shape: list[Any] = [1] * mask.ndim
                shape[axis] = -1
                mask = mask * (~gone).reshape(shape)
            masks[name] = mask.contiguous()
        return masks
