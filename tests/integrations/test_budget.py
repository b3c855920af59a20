"""How the steps of a trainer become epochs and runs, and packages that are not there."""

from __future__ import annotations

import importlib
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import sparsify_fx
from sparsify_fx.errors import MissingPackageError, SchedulerError
from sparsify_fx.integrations.budget import Budget, length_of_run
from sparsify_fx.learning_rate import Constant, CosineWarmup
from sparsify_fx.scheduler.clock import make_clock


def prepared(method: str, sparsity: float = 0.36, **axes: object) -> nn.Module:
    return sparsify_fx.apply(nn.Linear(10, 10), method, sparsity=sparsity, **axes)


# Draws are slow where the machine has more to do.
BUSY = settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
ONE_RUN, THREE = prepared("gmp"), prepared("lrr")
LATER = prepared("lrr", rewind={"weights": 1, "learning_rate": 1})


@BUSY
@given(steps=st.integers(1, 5000), epoch=st.none() | st.integers(1, 700))
def test_one_run_has_the_budget_but_for_less_than_a_step_for_each_epoch(
    steps: int, epoch: int | None
) -> None:
    budget = Budget(steps, epoch)
    epochs, per_epoch = length_of_run(ONE_RUN, budget, Constant())
    assert epochs == budget.epochs
    assert 0 <= steps - epochs * per_epoch < epochs
    if epoch and steps % epoch == 0:
        assert per_epoch == epoch  # epochs of the schedule are those of the data


@BUSY
@given(epochs=st.integers(5, 400), epoch=st.integers(1, 50))
def test_runs_share_the_budget(epochs: int, epoch: int) -> None:
    for model, restart in ((THREE, 0), (LATER, 1)):
        budget = Budget(epochs * epoch, epoch)
        first, per_epoch = length_of_run(model, budget, CosineWarmup(0.0))
        clock = make_clock(first, per_epoch, 3, restart or None, CosineWarmup(0.0))
        assert budget.steps - clock.epochs < clock.steps <= budget.steps
        longer = make_clock(first + 1, 1, 3, restart or None, CosineWarmup(0.0))
        assert longer.epochs > epochs


def test_a_budget_that_is_too_short_is_told_with_one_that_does() -> None:
    with pytest.raises(
        SchedulerError,
        match="3 runs, which take at least 3 epochs together, and the trainer makes 2",
    ):
        length_of_run(THREE, Budget(20, 10), Constant())
    with pytest.raises(SchedulerError, match="at least 4 epochs together"):
        length_of_run(LATER, Budget(20, 10), Constant())


@pytest.mark.parametrize("package", ["lightning", "transformers", "accelerate"])
def test_a_package_that_is_not_there_is_told_with_the_line_that_installs_it(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # None is what Python keeps of a package that it shall not find.
    for name in (package, f"{package}.pytorch", f"pytorch_{package}"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"sparsify_fx.integrations.{package}", False)
    with pytest.raises(ImportError) as told:
        importlib.import_module(f"sparsify_fx.integrations.{package}")
    assert isinstance(told.value, MissingPackageError)
    assert str(told.value).endswith(
        f"needs the package {package}, which is not installed; run: pip install {package}"
    )
