"""parameters: the usual budget, a number of weights."""

from __future__ import annotations

from dataclasses import dataclass

from sparsify_fx.budgets.base import (
    BUDGETS,
    Met,
    Request,
    check_left,
    check_unused,
    unreachable,
)
from sparsify_fx.criteria import FindsSparsity
from sparsify_fx.errors import MethodError
from sparsify_fx.masks import kept_count
from sparsify_fx.programs.selection import Layer


@BUDGETS.register("parameters")
@dataclass(frozen=True)
class Parameters:
    """So many weights stay: by default the fraction 1 − `sparsity` of the prunable ones.

    Attributes:
        left: a number of weights, or a fraction of the prunable ones in (0, 1], in place of `sparsity`.

    >>> import sparsify_fx, torch
    >>> net = sparsify_fx.apply(torch.nn.Linear(10, 10), "random", budget=Parameters(left=25))
    >>> int((net.weight != 0).sum())
    25
    """

    left: int | float | None = None

    def __post_init__(self) -> None:
        check_left("parameters", self.left)

    def meet(self, request: Request) -> Met:
        """round(left · total), or the number itself."""
        total = request.total
        if self.left is None:
            kept = kept_count(total, request.sparsity)
        else:
            check_unused("Parameters", "left", request)
            share = isinstance(self.left, float)
            kept = kept_count(total, 1 - self.left) if share else int(self.left)
        if kept > total:
            raise unreachable(
                "parameters", f"{kept:,} weights", f"{1:,}", f"{total:,}", "no more"
            )
        allocation = request.axes.allocation
        return Met("parameters", "weights", kept, kept, total, kept, total, allocation)


def found_sparsity(
    criterion: FindsSparsity, layers: dict[str, Layer], target: object
) -> float:
    """The sparsity that the weights have; MethodError for a budget, which would ask for another one."""
    if target != Parameters():
        raise MethodError(
            f"budget={target} has no meaning for a method that takes the sparsity of the weights as they are; leave it "
            "out"
        )
    return criterion.found_sparsity(
        {name: layer.weight.detach() for name, layer in layers.items()}
    )
