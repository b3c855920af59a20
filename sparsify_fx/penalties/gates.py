"""gates and thresholds: penalties on what decides which weights are zero."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from sparsify_fx.errors import MethodError
from sparsify_fx.penalties.base import PENALTIES, kept_entries
from sparsify_fx.penalties.towards import TowardsSparsity
from sparsify_fx.programs.program import WeightProgram


@runtime_checkable
class Gated(Protocol):
    """A parameterization with a gate for every weight."""

    def open_gates(self, tensors: Mapping[str, Any]) -> Any:
        """How far, or how probably, each gate is open, in [0, 1] (shape of the weight)."""


@PENALTIES.register("gates")
@dataclass(frozen=True)
class OpenGates(TowardsSparsity):
    """λ Σ open: the expected number of open gates. Σσ(τ·s) for `sigmoid-gate`, ΣP(z ≠ 0) for `hard-concrete`.

    Attributes:
        strength: λ.
        reach, floor: see `TowardsSparsity`.

    Weights without gates count nothing beside others that have them.

    Raises MethodError when no weight has gates.

    Source: [Savarese 2020], section 3; [Louizos 2018], eq. 12.
    """

    strength: float = 1e-6
    reversible: ClassVar[bool] = True

    def __call__(
        self, programs: Iterable[WeightProgram], strength: Tensor | None = None
    ) -> Tensor:
        """λ Σ over all gates."""
        # Parameterizations may differ by layer; where none has gates, `_gates` says so.
        gated = _those(
            programs, lambda program: isinstance(program.parameterization, Gated)
        )
        gates = torch.stack(
            [kept_entries(program, _gates(program)).sum() for program in gated]
        )
        return (self.strength if strength is None else strength) * gates.sum()


@PENALTIES.register("thresholds")
@dataclass(frozen=True)
class ThresholdDecay(TowardsSparsity):
    """(λ/2) Σ s², over the thresholds of all weights: weight decay λ on s, which raises σ(s) towards σ(0).

    Attributes:
        strength: λ.
        reach, floor: see `TowardsSparsity`.

    Weights without thresholds count nothing beside others that have them.

    Raises MethodError when no weight has thresholds.

    Source: [Kusupati 2020], section 3 (weight decay on s decides the sparsity).
    """

    strength: float = 5e-4
    reversible: ClassVar[bool] = True
    # It is the decay of the thresholds.
    without_decay: ClassVar[tuple[str, ...]] = ("shared",)

    def __call__(
        self, programs: Iterable[WeightProgram], strength: Tensor | None = None
    ) -> Tensor:
        """(λ/2) Σ over all thresholds."""
        # By the tensor and not by the class, so that a plugin's thresholds are decayed too.
        having = _those(programs, lambda program: "s" in program.shared_tensors())
        squares = torch.stack(
            [_threshold(program).square().sum() for program in having]
        )
        return (self.strength if strength is None else strength) / 2 * squares.sum()


def _those(
    programs: Iterable[WeightProgram], fits: Callable[[WeightProgram], bool]
) -> list[WeightProgram]:
    """The programs that fit, for others may be there where parameterizations differ by layer; all if none fits."""
    found = list(programs)
    return [program for program in found if fits(program)] or found


def _gates(program: WeightProgram) -> Tensor:
    how = program.parameterization
    if not isinstance(how, Gated):
        raise MethodError(
            f"the penalty 'gates' needs gates, parameterization 'sigmoid-gate' or 'hard-concrete', found {how}"
        )
    gates: Tensor = how.open_gates(
        {**program.factor_tensors(), **program.state_tensors()}
    )
    return gates


def _threshold(program: WeightProgram) -> Tensor:
    shared = program.shared_tensors()
    if "s" not in shared:
        raise MethodError(
            "the penalty 'thresholds' needs thresholds s, parameterization 'soft-threshold', "
            f"found {program.parameterization}"
        )
    return shared["s"]
