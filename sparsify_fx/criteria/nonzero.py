"""nonzero: what is zero already goes, whoever made it so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsify_fx.allocations import Allocation, Global
from sparsify_fx.criteria.base import CRITERIA, PruningContext, Scores
from sparsify_fx.errors import MethodError, SparsityError


@CRITERIA.register("nonzero")
@dataclass(frozen=True)
class NonZero:
    """Magnitude `|θ|` under the budget that the weights have already: every weight that is zero goes, no other does.

    Of n prunable weights, z of which are zero, `apply` takes the sparsity z / n in place of the one that is asked for.

    Raises SparsityError for weights none of which is zero, or all of which are; MethodError for an allocation other
    than global, which would divide the non-zeros anew.

    >>> import torch
    >>> NonZero().found_sparsity({"fc.weight": torch.tensor([[0.0, 1.0], [-2.0, 0.0]])})
    0.5
    """

    needs: ClassVar[tuple[str, ...]] = ()
    entrywise: ClassVar[bool] = True

    def scores(self, context: PruningContext) -> Scores:
        """`|θ|`: 0 for what goes, and more for what stays."""
        return {name: weight.abs() for name, weight in context.weights.items()}

    def found_sparsity(self, weights: Mapping[str, Tensor]) -> float:
        """The fraction of these weights that is zero, +0.0 or -0.0, in (0, 1)."""
        total = sum(weight.numel() for weight in weights.values())
        kept = sum(int(weight.count_nonzero()) for weight in weights.values())
        if kept == total:
            raise SparsityError(
                f"keep-zeros: none of the {total} prunable weights is zero, so there is no mask to keep; load the "
                "pruned checkpoint before apply (masks of torch.nn.utils.prune become zeros by "
                "sparsify_fx.fold_masks), or prune with another method, such as magnitude"
            )
        if kept == 0:
            raise SparsityError(
                f"keep-zeros: all {total} prunable weights are zero, and nothing would be left to train; load the "
                "checkpoint first"
            )
        return 1 - kept / total

    def check(
        self,
        weights: Mapping[str, Tensor],
        budgets: Iterable[int],
        allocation: Allocation,
    ) -> None:
        """MethodError for an allocation under which other weights than the zeros would go."""
        if allocation != Global():
            raise MethodError(
                f"keep-zeros keeps the zeros where they are; use allocation='global', not {allocation}"
            )
