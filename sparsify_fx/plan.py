"""The plan: what one `apply` decided, carried by its weight programs, read by the Scheduler and the export."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from sparsify_fx.errors import MethodError
from sparsify_fx.programs.owners import programs
from sparsify_fx.recipe import ResolvedAxes


@dataclass(frozen=True)
class Plan:
    """The method, its axes, the requested sparsity and the seed of one `apply`.

    Attributes:
        weights: the names of its weights in the module that `apply` was given, in module order.
    """

    method: str
    axes: ResolvedAxes
    sparsity: float
    seed: int
    weights: tuple[str, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain, JSON-ready values."""
        return {
            "method": self.method,
            "sparsity": self.sparsity,
            "seed": self.seed,
            "axes": self.axes.to_dict(),
        }


@dataclass(frozen=True)
class Inputs:
    """What criteria read: (inputs, targets) pairs for the module that they belong to, and a loss of its outputs."""

    batches: Iterable[Any] | None = None
    loss_fn: Any = None


_INPUTS: WeakKeyDictionary[nn.Module, dict[int, tuple[Plan, Inputs]]] = (
    WeakKeyDictionary()
)


def remember_inputs(module: nn.Module, plan: Plan, inputs: Inputs) -> None:
    """Keep what `apply` was given, for the Scheduler of the same module object; copies and pickles do not have it."""
    _INPUTS.setdefault(module, {})[id(plan)] = (plan, inputs)


def remembered_inputs(module: nn.Module, plan: Plan) -> Inputs:
    """What `apply` was given for `plan`; empty for a copy."""
    known = _INPUTS.get(module, {}).get(id(plan))
    return Inputs() if known is None else known[1]


def plans_of(model: nn.Module) -> list[Plan]:
    """The plans on the model's programs, one for each `apply`, in module order; none for a plain model."""
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
