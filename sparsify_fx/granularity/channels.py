"""Channels and heads, with all that is coupled with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsify_fx.coupling.classes import Ids
from sparsify_fx.granularity.moving import (
    Members,
    after_moves,
    living_groups,
    masks_of,
    woken_rows,
)
from sparsify_fx.granularity.ranked import Ranked, ranked_of, table_of, unit_bounds
from sparsify_fx.granularity.reductions import RELATIVE, Totals, check_reduction
from sparsify_fx.sharding import shard, whole
from sparsify_fx.shrinking import shrink


@dataclass(frozen=True)
class Channels:
    """Groups of channels stay or go as a whole: rows of the layers that make them, columns of those that read them.

    The groups with the lowest scores go, in all layers together or, with `uniform`, the same fraction of each width of
    the model, until at most `kept` weights are left. The best group of each width always stays.

    Attributes:
        reduction: "l2", "sum", "max" or "mean" over the scores of a group's weights; "relative": l2 by its root mean
            square over the living groups of the width.
        uniform: whether every width loses the same fraction.
        members: {weight: {axis: the group of each slice, 0 where it stays}}.
        families: the groups of each width.
        steps: for each width, a multiple of how many groups stays while there are many.
        made: {weight: the axis of the channels that it makes}.
    """

    reduction: str = RELATIVE
    uniform: bool = False
    members: Members = field(default_factory=dict, repr=False, compare=False)
    families: tuple[Ids, ...] = field(default=(), repr=False, compare=False)
    steps: tuple[int, ...] = field(default=(), repr=False, compare=False)
    made: Mapping[str, int] = field(default_factory=dict, repr=False, compare=False)

    whole_groups = True

    def __post_init__(self) -> None:
        check_reduction(self.reduction)

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

    def regrown(
        self,
        weights: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        wanted: Mapping[str, Tensor],
        fraction: float,
    ) -> dict[str, Tensor]:
        """The masks when in each width this fraction of the living groups, the smallest, makes room for dead ones."""
        was = living_groups(masks, self.members, self._count())
        sizes = {n: w.abs().masked_fill(masks[n] == 0, -torch.inf) for n, w in weights.items()}  # fmt: skip
        # What was cut out cannot come back.
        here = np.unique(np.concatenate(self._member_ids()))
        now = after_moves(
            [np.intersect1d(family, here) for family in self.families],
            was,
            self.group_scores(sizes),
            self.group_scores(wanted),
            fraction,
        )
        return masks_of(masks, self.members, was, now)

    def woken(
        self,
        weights: Mapping[str, Tensor],
        before: Mapping[str, Tensor],
        after: Mapping[str, Tensor] | None,
        generator: torch.Generator,
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """{weight: (values, where)} of groups that were dead before and live after; None: all live."""
        was = living_groups(before, self.members, self._count())
        now = np.ones_like(was) if after is None else living_groups(after, self.members, self._count())  # fmt: skip
        return woken_rows(weights, self.members, self.made, now & ~was, generator)

    def _count(self) -> int:
        return 1 + max(int(ids.max()) for ids in self._all_ids())

    def _all_ids(self) -> list[Ids]:
        return [*self.families, *self._member_ids()]

    def _member_ids(self) -> list[Ids]:
        """Those of the groups that the weights still hold slices of."""
        found: list[Ids] = []
        for axes in self.members.values():
            found += axes.values()
        return found

    def after_cut(self, kept: Mapping[str, Mapping[int, Tensor]]) -> Channels:
        """The same groups of a model whose weights have lost slices: {weight: {axis: those that stay}}."""
        members = {name: dict(axes) for name, axes in self.members.items()}
        for name, axes in kept.items():
            for axis, index in axes.items():
                if axis in members.get(name, {}):
                    members[name][axis] = members[name][axis][index.cpu().numpy()]
        return replace(self, members=members)

    def cut_dead(self, model: nn.Module, example_inputs: Any) -> None:
        """Cut what nothing reads out of a plain model with these zeros, in place; `export` does so to its copy."""
        shrink(model, example_inputs)

    def ranked(self, scores: Mapping[str, Tensor]) -> Ranked:
        """The groups in the order in which they go, and what each tensor holds of them."""
        tables = {}
        for name, score in scores.items():
            living = (~torch.isneginf(score.detach())).cpu()
            tables[name] = table_of(living, self.members.get(name, {}))
        return ranked_of(self._units(self.group_scores(scores)), tables)

    def least(self, scores: Mapping[str, Tensor]) -> int:
        """The smallest number of weights that can be left."""
        ranked = self.ranked(scores)
        return ranked.left(ranked.order)

    def group_scores(self, scores: Mapping[str, Tensor]) -> dict[int, float]:
        """The score of each group that may go."""
        groups = np.concatenate(self.families)
        totals = Totals(int(groups.max()) + 1)
        for name, axes in self.members.items():
            for axis, ids in axes.items():
                slices = scores[name].movedim(axis, 0).flatten(1)
                totals.add(slices, ids)
        found = totals.scores(self.reduction, self.families)
        return {int(group): float(found[group]) for group in groups}

    def _units(self, scores: Mapping[int, float]) -> list[list[int]]:
        """The groups that may go, in the units in which they do, the worst first; never the best of a width."""
        ranked: list[tuple[float, float, list[int]]] = []
        for family, step in zip(self.families, self.steps, strict=True):
            worst_first = sorted(
                family.tolist(), key=lambda group: (scores[group], -group)
            )
            for start, end in unit_bounds(len(worst_first), step):
                unit = worst_first[start:end]
                best, share = scores[unit[-1]], end / len(worst_first)
                first = share if self.uniform else best
                # What is gone already stays gone, and counts first.
                first = first if np.isfinite(best) else -np.inf
                ranked.append((first, best, unit))
        return [unit for _, _, unit in sorted(ranked)]

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
