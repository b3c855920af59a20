"""Budgets: targets in place of a fraction of weights. `apply(..., budget=)` finds the sparsity that meets one.

`parameters` counts weights, `macs` multiply-adds, `latency` milliseconds of the sparse kernels on this machine.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from sparsify_fx.axes import named
from sparsify_fx.budgets.base import BUDGETS, DEFAULT_SPARSITY, Budget, Met, Request
from sparsify_fx.budgets.counting import Work, count_multiply_adds
from sparsify_fx.budgets.latency import Latency
from sparsify_fx.budgets.macs import MACs
from sparsify_fx.budgets.parameters import Parameters
from sparsify_fx.plan import plans_of

__all__ = [
    "BUDGETS",
    "DEFAULT_SPARSITY",
    "Budget",
    "Latency",
    "MACs",
    "Met",
    "Parameters",
    "Request",
    "Work",
    "count_multiply_adds",
    "find_budget",
    "met_by",
]


def find_budget(value: Any) -> Budget:
    """The budget that a name ("macs"), a mapping ({"name": "latency", "milliseconds": 5}) or an object stands for.

    Raises UnknownNameError for an unknown name, MethodError for what is none.
    """
    found: Budget = named(BUDGETS, Budget, value)
    # A registered name is that of a class with defaults.
    return found


def met_by(model: nn.Module) -> tuple[Met, ...]:
    """How the budgets of the model's parts were met, one for each `apply` with a budget; empty without."""
    return tuple(plan.met for plan in plans_of(model) if plan.met is not None)
