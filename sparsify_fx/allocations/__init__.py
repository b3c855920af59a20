"""Allocations: how a budget of non-zeros is divided among the layers, exactly.

`uniform`, `balanced` and `erk` are proportional: layer i gets min(capacity_i, ε · share_i), with the ε that spends the
budget; the excess of layers that are full goes to the others. Shares are integers, so the arithmetic is exact.
"""

from sparsify_fx.allocations.base import (
    ALLOCATIONS,
    Allocation,
    Checked,
    Chooser,
    Pattern,
    RegrowingPattern,
    proportional,
)
from sparsify_fx.allocations.fan_in import FanIn
from sparsify_fx.allocations.floors import Floored, with_min_per_layer
from sparsify_fx.allocations.patterns import NofM
from sparsify_fx.allocations.per_layer import PerLayer
from sparsify_fx.allocations.shares import Balanced, ErdosRenyiKernel, Global, Uniform

__all__ = [
    "ALLOCATIONS",
    "Allocation",
    "Balanced",
    "Checked",
    "Chooser",
    "ErdosRenyiKernel",
    "FanIn",
    "Floored",
    "Global",
    "NofM",
    "Pattern",
    "PerLayer",
    "RegrowingPattern",
    "Uniform",
    "proportional",
    "with_min_per_layer",
]
