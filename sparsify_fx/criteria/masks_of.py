"""masks-of: the masks that another run had, cycle by cycle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from sparsify_fx.allocations import Allocation, Global
from sparsify_fx.checkpoints.run_files import cycle_numbers, mask_key, read_state
from sparsify_fx.criteria.base import CRITERIA, PruningContext, Scores
from sparsify_fx.errors import CheckpointError, MethodError
from sparsify_fx.masks import nonzeros


@CRITERIA.register("masks-of")
@dataclass(frozen=True)
class MasksOf:
    """1 where another run's mask of the same budget keeps a weight, else 0: each cycle uses that run's mask.

    Attributes:
        run: a run folder that was trained with `save_cycles: true`, with the same model, sparsity and schedule.

    Raises MethodError for an allocation other than global; CheckpointError for a folder without a mask of the budget,
    or one whose masks are not nested in those of this run.

    Source: [Gadhikar 2024], section 3, Figs. 3 and 4 (IMP with the LRR mask and the other way round).
    """

    run: str
    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.run, str) or not self.run:
            raise MethodError(
                f"masks-of: run={self.run!r} must be the path of a run folder"
            )

    def scores(self, context: PruningContext) -> Scores:
        """The other mask as numbers."""
        masks = self._masks(context.weights, context.kept)
        # Masks must be nested: bringing a weight back would need a value that was pruned long ago.
        alive = context.alive or masks
        lost = [
            name
            for name in masks
            if bool(((masks[name] == 1) & (alive[name].cpu() == 0)).any())
        ]
        if lost:
            raise CheckpointError(
                f"the mask of {self.run} keeps weights of {lost[0]} that are pruned here already; start from the same "
                "mask, and use a run with the same schedule"
            )
        return {
            name: masks[name].to(weight) for name, weight in context.weights.items()
        }

    def check(
        self,
        weights: Mapping[str, Tensor],
        budgets: Iterable[int],
        allocation: Allocation,
    ) -> None:
        """Raise the errors above now, before any training."""
        # Any other allocation would divide the budget anew, and keep weights that the other mask prunes.
        if allocation != Global():
            raise MethodError(
                f"masks-of brings the whole mask; use allocation='global', not {allocation}"
            )
        # All budgets now: a mask that is missing for the last cycle would else be found after all others were trained.
        for kept in budgets:
            self._masks(weights, kept)

    def _masks(self, weights: Mapping[str, Tensor], kept: int) -> dict[str, Tensor]:
        counts = []
        # Found by the number of weights, not by the cycle: what has to agree is the budget.
        for cycle in cycle_numbers(self.run):
            masks = self._cycle(weights, cycle)
            if nonzeros(masks) == kept:
                return masks
            counts.append(nonzeros(masks))
        raise CheckpointError(
            f"{self.run} has masks of {counts} weights, none of {kept}; use the same model, sparsity and schedule there"
        )

    def _cycle(self, weights: Mapping[str, Tensor], cycle: int) -> dict[str, Tensor]:
        state = read_state(Path(self.run), cycle=cycle)
        odd = [
            n
            for n, w in weights.items()
            if mask_key(n) not in state or state[mask_key(n)].shape != w.shape
        ]
        if odd:
            raise CheckpointError(
                f"cycle {cycle} of {self.run} has no mask for {odd[0]} of this model"
            )
        return {name: state[mask_key(name)].to(torch.uint8) for name in weights}
