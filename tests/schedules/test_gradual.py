"""gradual and gradual-cycles: a dense run first, sparsities on a cubic curve, and less for nets that are trained."""

from __future__ import annotations

import numpy as np
import pytest

from sparsify_fx import testing
from sparsify_fx.errors import MethodError
from sparsify_fx.schedules import Budget, Gradual, GradualCycles, Schedule
from sparsify_fx.schedules.updates import Prune

BUDGET = Budget(10_000, 0.9, 40)


def sparsities(schedule: Schedule) -> list[float]:
    found = [update.alive(0, 0) for update in schedule.updates(BUDGET)]
    return [1 - kept / BUDGET.total for kept in found]


@pytest.mark.parametrize("schedule", [Gradual(first=0.2), GradualCycles(8, first=0.2)])
def test_sparsities_lie_on_the_curve(schedule: Schedule) -> None:
    # np.interp over the curve drawn finely: (1 − x)³ from 0.2 of the way to all of it.
    fine = np.linspace(0, 1, 700_001)
    curve = 0.9 * (1 - 0.8 * (1 - fine) ** 3)
    expected = np.interp(np.arange(8) / 7, fine, curve)
    np.testing.assert_allclose(sparsities(schedule), expected, atol=1e-4)


def test_gradual_prunes_in_the_second_run_at_equal_steps() -> None:
    updates = Gradual(prunings=5, start=0.1, end=0.5).updates(BUDGET)
    assert [(u.run, round(u.epoch, 9)) for u in updates] == [
        (1, 4.0), (1, 8.0), (1, 12.0), (1, 16.0), (1, 20.0),
    ]  # fmt: skip
    assert Gradual(prunings=1).updates(BUDGET) == (Prune(1, 0.4 * 40, 1000),)


def test_trained_nets_have_no_dense_run() -> None:
    short = Gradual().for_trained(0.9, epochs=2, steps=10)
    assert (short.prunings, short.runs(0.9)) == (3, 1)
    assert {update.run for update in short.updates(BUDGET)} == {0}
    cycles = GradualCycles(cycles=4).for_trained(0.9, epochs=3, steps=30)
    assert (cycles.cycles, cycles.runs(0.9)) == (3, 3)
    assert cycles.initial(BUDGET) == 5500
    assert sparsities(cycles)[-1] == pytest.approx(0.9)


@pytest.mark.parametrize("schedule", ["gradual", "gradual-cycles"])
def test_the_laws_of_a_schedule(schedule: str) -> None:
    testing.check_schedule(schedule)
    testing.check_schedule({"name": schedule, "trained": True})  # type: ignore[arg-type]


def test_wrong_numbers_are_explained() -> None:
    with pytest.raises(MethodError, match="prunings=0 must be a whole number >= 1"):
        Gradual(prunings=0)
    with pytest.raises(MethodError, match=r"first=1.0 must be a share .* in \[0, 1\)"):
        GradualCycles(first=1.0)
    with pytest.raises(MethodError, match="expected 0 <= start < end < 1"):
        Gradual(start=0.5, end=0.4)
