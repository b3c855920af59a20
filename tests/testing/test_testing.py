"""The checks of `sparsify_fx.testing` pass what keeps the laws and name what does not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from sparsify_fx import testing
from sparsify_fx.criteria import CRITERIA, FunctionCriterion, PruningContext
from sparsify_fx.errors import UnknownNameError
from sparsify_fx.parameterizations import PARAMETERIZATIONS, Plain
from sparsify_fx.penalties import PENALTIES
from sparsify_fx.programs.program import WeightProgram
from sparsify_fx.schedules import SCHEDULES, Budget
from sparsify_fx.schedules.base import OneRun
from sparsify_fx.schedules.updates import MaskUpdate, Prune

FITS = {
    "gates": "sigmoid-gate",
    "thresholds": "soft-threshold",
    "factors": "product",
    "pilot": "product",
}


@pytest.mark.parametrize(
    "name", [name for name in CRITERIA if name != "masks-of"]
)  # which needs a run
def test_every_criterion_passes(name: str) -> None:
    testing.check_criterion(name)


@pytest.mark.parametrize("name", list(PARAMETERIZATIONS))
def test_every_parameterization_passes(name: str) -> None:
    testing.check_parameterization(name)


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_every_schedule_passes(name: str) -> None:
    testing.check_schedule(name)


@pytest.mark.parametrize("name", list(PENALTIES))
def test_every_penalty_passes(name: str) -> None:
    testing.check_penalty(name, FITS.get(name, "dense"))


def test_a_method_passes() -> None:
    testing.check_method("random")
    with pytest.raises(UnknownNameError, match="did you mean 'signin'"):
        testing.check_method("sign-in")


def writes(context: PruningContext) -> dict[str, Tensor]:
    assert context.model is not None
    context.model.get_parameter("0.weight").data.mul_(0.5)
    return {name: weight.abs() for name, weight in context.weights.items()}


calls: list[int] = []


def moody(context: PruningContext) -> dict[str, Tensor]:
    calls.append(1)
    return {
        name: weight.abs() * (-1.0) ** len(calls)
        for name, weight in context.weights.items()
    }


def test_criteria_that_write_or_forget_their_seed_are_told() -> None:
    with pytest.raises(testing.LawError, match="writes: scoring changes the model"):
        testing.check_criterion(FunctionCriterion("writes", writes, ("model",)))
    with pytest.raises(
        testing.LawError, match="moody: the same seed gives other masks"
    ):
        testing.check_criterion(FunctionCriterion("moody", moody))


@dataclass(frozen=True)
class Rounded(Plain):
    """Loses the last bits of θ, and does not say so."""

    factors: ClassVar[tuple[str, ...]] = ("d",)

    def value(self, tensors: Mapping[str, Any]) -> Any:
        return tensors["d"] * 1.0

    def split(self, theta: Tensor, others: Any = None) -> dict[str, Tensor]:
        return {"d": theta.bfloat16().to(theta.dtype)}


@dataclass(frozen=True)
class Misnamed(Rounded):
    factors: ClassVar[tuple[str, ...]] = ("d", "e")


def test_parameterizations_that_lose_theta_are_told() -> None:
    with pytest.raises(
        testing.LawError, match=r"misses θ = .* by more than error_bound"
    ):
        testing.check_parameterization(Rounded())
    with pytest.raises(testing.LawError, match=r"split gives \['d'\], the factors are"):
        testing.check_parameterization(Misnamed())


@dataclass(frozen=True)
class Short(OneRun):
    at: float = 2.0

    def updates(self, budget: Budget) -> tuple[MaskUpdate, ...]:
        return (Prune(0, self.at, budget.kept + 1),)


def test_schedules_that_miss_the_budget_or_the_run_are_told() -> None:
    with pytest.raises(testing.LawError, match="weights"):
        testing.check_schedule(Short())
    with pytest.raises(testing.LawError, match="epoch 100, beyond the run"):
        testing.check_schedule(Short(at=100.0))


@dataclass(frozen=True)
class Everywhere:
    """Forgets the mask."""

    def __call__(self, programs: Iterable[WeightProgram]) -> Tensor:
        return (
            torch.stack(
                [
                    f.square().sum()
                    for p in programs
                    for f in p.factor_tensors().values()
                ]
            ).sum()
            + self.one
        )

    one: float = 1.0


def test_a_penalty_that_reaches_pruned_weights_is_told() -> None:
    with pytest.raises(testing.LawError, match="reaches pruned entries"):
        testing.check_penalty(Everywhere(), "product")
