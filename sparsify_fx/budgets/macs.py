"""macs: a number of multiply-adds."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from sparsify_fx.budgets.base import (
    BUDGETS,
    Met,
    Request,
    check_left,
    number,
    share_left,
    unreachable,
)
from sparsify_fx.budgets.counting import count_multiply_adds
from sparsify_fx.budgets.division import Counts, division_of
from sparsify_fx.budgets.plain import first_call
from sparsify_fx.errors import SparsityError


@BUDGETS.register("macs")
@dataclass(frozen=True)
class MACs:
    """At most so many multiply-adds are left: by default the fraction 1 − `sparsity` of those of the pruned layers.

    A layer of n weights with M multiply-adds has M · k / n left when it keeps k of them. The most weights stay with
    which the sum is within the budget, divided by the method's allocation: "uniform", "balanced" and "erk" as always;
    "global" by the scores that the weights have in `apply`, since those of later are not known yet.

    Attributes:
        left: a number of multiply-adds of the whole model for the example inputs (what is not pruned is part of it,
            such as excluded layers and the products within attention), or a fraction of the pruned layers' own in
            (0, 1].

    Needs `example_inputs`, or `batches` as a list.

    >>> import sparsify_fx, torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 10))
    >>> x = torch.ones(1, 1, 8, 8)
    >>> options = {"allocation": "uniform", "example_inputs": x}
    >>> _ = sparsify_fx.apply(net, "gmp", sparsity=0.75, budget="macs", **options)
    >>> print(sparsify_fx.budgets.met_by(net)[0].sentence())
    at most 684 of 2,736 multiply-adds were asked for; 369 of 1,476 weights (sparsity 0.75) leave 684
    """

    left: int | float | None = None

    def __post_init__(self) -> None:
        check_left("macs", self.left)

    def meet(self, request: Request) -> Met:
        """The largest number of weights whose multiply-adds are within the budget."""
        share = share_left("MACs", self.left, request)
        call = first_call(request.example_inputs, request.inputs.batches, "budget macs")
        work = count_multiply_adds(request.model, call)
        own = {name: work.by_weight.get(name, 0) for name in request.layers}

        # 1. A share is of the layers that are pruned; a number is of the whole model, of which the rest stays as it is.
        fixed = 0 if share is not None else work.total - sum(own.values())
        dense = sum(own.values()) + fixed
        if not sum(own.values()):
            raise SparsityError(
                "budget macs: the forward multiplies by none of the prunable weights, so none costs a multiply-add; "
                "leave budget= out, or give example_inputs= that reach them"
            )
        asked = round(share * dense) if share is not None else int(self.left or 0)
        if asked > dense:
            raise SparsityError(
                f"budget macs: {number(asked)} multiply-adds are more than the {number(dense)} of the dense "
                "model; ask for fewer"
            )

        # 2. The largest division that costs no more, in exact arithmetic.
        division = division_of(request, "macs", asked / dense)
        uses = {n: Fraction(m, max(1, division.sizes[n])) for n, m in own.items()}

        def cost(counts: Counts) -> Fraction:
            return fixed + sum((uses[n] * k for n, k in counts.items()), Fraction(0))

        kept = division.most_within(cost, asked)
        if not kept:
            least = cost(division.counts(division.least))
            raise unreachable(
                "macs",
                f"{asked:,} multiply-adds",
                f"{int(least):,}",
                f"{dense:,}",
                f"{division.least:,} of {division.total:,} weights",
            )
        found = cost(division.counts(kept))
        return Met(
            "macs",
            "multiply-adds",
            asked,
            int(found),
            dense,
            kept,
            division.total,
            division.fixed(kept),
        )
