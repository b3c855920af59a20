"""The plan: what `apply` decided for a model, carried by every weight program, read by the Scheduler and the export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from sparsify_fx.errors import RecipeError
from sparsify_fx.owners import programs
from sparsify_fx.recipe import ResolvedAxes


@dataclass(frozen=True)
class Plan:
    """The method, its axes, the requested sparsity and the seed."""

    method: str
    axes: ResolvedAxes
    sparsity: float
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Plain, JSON-ready values."""
        return {"method": self.method, "sparsity": self.sparsity, "seed": self.seed, "axes": self.axes.to_dict()}


_INPUTS: WeakKeyDictionary[nn.Module, tuple[Any, Any]] = WeakKeyDictionary()


def remember_inputs(model: nn.Module, batches: Any, loss_fn: Any) -> None:
    """Keep what `apply` was given, for the Scheduler of the same model object; copies and pickles do not have it."""
    _INPUTS[model] = (batches, loss_fn)


def remembered_inputs(model: nn.Module) -> tuple[Any, Any]:
    """(batches, loss_fn) of `apply`, or Nones."""
    return _INPUTS.get(model, (None, None))


def plan_of(model: nn.Module) -> Plan | None:
    """The plan that `apply` left on the model's programs; None for a plain model or after bare passes."""
    first = next(iter(programs(model).values()), None)
    return None if first is None else first.plan


def require_plan(model: nn.Module) -> Plan:
    """The model's plan; RecipeError when `apply` has not run on it."""
    plan = plan_of(model)
    if plan is None:
        raise RecipeError(f"{type(model).__name__} was not prepared; call sparsify_fx.apply(model, method=...) first")
    return plan
