"""The plan: what one `apply` decided, carried by its weight programs, read by the Scheduler and the export."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch import nn

from sparsify_fx.errors import MethodError
from sparsify_fx.programs.owners import programs
from sparsify_fx.recipe import ResolvedAxes

if TYPE_CHECKING:
    from sparsify_fx.budgets.base import Met


@dataclass(frozen=True)
class Inputs:
    """What criteria read: (inputs, targets) pairs for the module that they belong to, and a loss of its outputs."""

    batches: Iterable[Any] | None = None
    loss_fn: Any = None


@dataclass(frozen=True)
class Plan:
    """The method, its axes, the requested sparsity and the seed of one `apply`.

    Attributes:
        weights: the names of its weights in the module that `apply` was given, in module order.
        storage: "auto", "full" or "living", as `apply` was told.
        changes: whether its masks change while it trains.
        met: the budget that decided the sparsity, and how it was met; None where the sparsity was given.
        inputs: what `apply` was given beside the module, by that module, for the Scheduler; empty in every copy.
    """

    method: str
    axes: ResolvedAxes
    sparsity: float
    seed: int
    weights: tuple[str, ...] = field(default=(), repr=False)
    # Not a part of what is compared or saved: a training goes on in either storage.
    storage: str = field(default="auto", repr=False, compare=False)
    changes: bool = field(default=False, repr=False, compare=False)
    # What it decided is in `sparsity` and `axes` already.
    met: Met | None = field(default=None, repr=False, compare=False)
    # Copies of a model share its plan, but the batches are those of one module object: a copy that is kept (an average,
    # the best epoch) shall neither score on them nor keep a data set alive. So the key is that module, and it is weak:
    # the entry goes with the module, or with the plan when the model is merged, whichever is first.
    inputs: WeakKeyDictionary[nn.Module, Inputs] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False, compare=False
    )

    def __getstate__(self) -> dict[str, Any]:
        # Loaders and losses may be beyond pickling, and a file has no module to be the key.
        return {name: value for name, value in vars(self).items() if name != "inputs"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Frozen, so past __setattr__; pickles of versions without this field get it here too.
        vars(self).update({"met": None} | state, inputs=WeakKeyDictionary())

    def to_dict(self) -> dict[str, Any]:
        """What a plan decides, as plain, JSON-ready values: part of the fingerprint of a schedule."""
        return {
            "method": self.method,
            "sparsity": self.sparsity,
            "seed": self.seed,
            "axes": self.axes.to_dict(),
        }


def plans_of(model: nn.Module) -> list[Plan]:
    """The plans on the model's programs, one for each `apply`, in module order; none for a plain model."""
    # By identity: two calls of `apply` with equal arguments are two plans, each with a part of its own.
    found = {
        id(program.plan): program.plan
        for program in programs(model).values()
        if program.plan is not None
    }
    return list(found.values())


def plan_of(model: nn.Module) -> Plan | None:
    """The first plan that `apply` left on the model's programs; None for a plain model or after bare passes."""
    return next(iter(plans_of(model)), None)


def require_plan(model: nn.Module) -> Plan:
    """The model's plan; MethodError when `apply` has not run on it."""
    plan = plan_of(model)
    if plan is None:
        raise MethodError(
            f"{type(model).__name__} was not prepared; call sparsify_fx.apply(model, method=...) first"
        )
    return plan
