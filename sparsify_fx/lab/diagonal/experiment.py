"""diagonal: sparse regression with a diagonal linear network, from PILoT's and spred's start and with L1."""

from __future__ import annotations

from dataclasses import asdict

import torch

from sparsify_fx.lab.base import Check, Findings, experiment
from sparsify_fx.lab.common.statistics import Mean, mean_with_interval
from sparsify_fx.lab.diagonal.bregman import Residuals, check_mirror_flow
from sparsify_fx.lab.diagonal.figures import (
    LABELS,
    draw_distances,
    draw_potential,
    draw_schedules,
)
from sparsify_fx.lab.diagonal.problem import INITS, SHAPES, Schedule
from sparsify_fx.lab.diagonal.runs import (
    FULL,
    Screened,
    Size,
    best_of,
    early_schedules,
    escapes,
    final_flow,
    nearest,
    problem_of,
    runs_of,
    screen,
    trajectories,
)
from sparsify_fx.tables.fitting import Grid


@experiment(
    "diagonal",
    paper="[Jacobs 2025], section 4, Figs. 1, 2 and 5, Theorem 2.1, Lemma B.1, Eq. 7",
    claim="On sparse regression with m ⊙ w, PILoT's start (m² − w² = 1) ends nearer to the truth than spred's "
    "(m² = w²), which cannot flip a sign; weight decay makes a mirror flow of a potential that changes in time.",
)
def diagonal(full: bool, seed: int) -> Findings:
    """Figs. 1, 2 and 5 of [Jacobs 2025], and the numeric check of Theorem 2.1 and Lemma B.1."""
    return measure(FULL if full else Size(), seed)


def measure(size: Size, seed: int) -> Findings:
    """The whole experiment at a given size."""
    problem = problem_of(size, seed)

    # 1. The best schedule of each start, by descent at a coarse step: at the paper's step of 1e-4 all
    # schedules would take a hundred times as long.
    times = (size.time, size.long_time)
    screened = {time: screen(size, problem, time) for time in times}
    best = nearest(screened[size.time])

    # 2. These at the paper's step, and as exact flow, which says what of the ends the step has made.
    paths = trajectories(size, problem, best)
    ends = {init: mean_with_interval(path[-1]) for init, (_, path) in paths.items()}
    flows = {
        init: float(final_flow(problem, init, [best[init]]).mean())
        for init in ("pilot", "spred")
    }

    # 3. What the comparison depends on: rounding of the start, and the time in which a schedule acts.
    escaped, early = escapes(size, problem), early_schedules(size, problem)

    # 4. The theory along a trajectory of each shape. It holds or fails at any time: 20 units are enough.
    moments = torch.linspace(0, min(20.0, size.time), 41, dtype=torch.float64)
    length = float(moments[-1])
    residuals = {
        shape: check_mirror_flow(problem, Schedule(shape, 1.0, length), moments)
        for shape in SHAPES
    }
    return Findings(
        grids=(
            _ends_grid(size, best, ends, flows),
            *(_by_shape(screened[time], size, time) for time in screened),
            _escapes_grid(escaped),
            _early_grid(size, early),
            _residuals_grid(residuals),
        ),
        checks=_checks(ends, flows, screened[size.time], residuals, early),
        figures={
            "diagonal": lambda figure: draw_distances(paths, best, figure),
            "diagonal-schedules": lambda figure: draw_schedules(
                screened[size.time], figure
            ),
            "diagonal-potential": draw_potential,
        },
        settings=asdict(size),
        notes=(
            "From a start with abs(m) = abs(w) to the last bit, spred keeps every sign at any step, as the flow does. "
            "It escapes by rounding: where w = x₀/m is rounded, abs(m) and abs(w) differ in the last place, and that "
            "difference grows as exp(2∫|∇f|).",
        ),
    )


def _ends_grid(
    size: Size,
    best: dict[str, Schedule],
    ends: dict[str, Mean],
    flows: dict[str, float],
) -> Grid:
    rows = [
        (LABELS[init], str(best[init]), str(ends[init]), flows.get(init, "-"))
        for init in INITS
    ]
    return Grid(
        f"|x − x*| at time {size.time:g}, step {size.rate:g}, best schedule",
        ("", "schedule", "distance", "exact flow"),
        tuple(rows),
    )


def _escapes_grid(escaped: dict[tuple[str, float, float], Mean]) -> Grid:
    rows = [
        (start, time, rate, str(mean)) for (start, time, rate), mean in escaped.items()
    ]
    return Grid(
        "the best of constant and geometric schedules, by start, time and step (0: exact flow)",
        ("start", "time", "step", "distance"),
        tuple(rows),
    )


def _early_grid(size: Size, early: dict[str, tuple[Schedule, float]]) -> Grid:
    rows = [
        (LABELS[init], str(schedule), distance)
        for init, (schedule, distance) in early.items()
    ]
    return Grid(
        f"geometric schedules that act within a few {size.early:g} time units",
        _COLUMNS,
        tuple(rows),
    )


def _residuals_grid(residuals: dict[str, Residuals]) -> Grid:
    rows = [
        (shape, found.lemma, found.theorem, found.printed)
        for shape, found in residuals.items()
    ]
    return Grid(
        "largest residual along a trajectory",
        ("schedule", "Lemma B.1", "Theorem 2.1, a ~ exp(−4A)", "as printed, exp(−2A)"),
        tuple(rows),
    )


_COLUMNS = ("", "schedule", "distance")


def _by_shape(screened: Screened, size: Size, time: float) -> Grid:
    rows = []
    for init, (schedules, _, path) in screened.items():
        for shape in SHAPES:
            runs = runs_of(schedules, shape)
            schedule, _ = best_of([schedules[run] for run in runs], path[-1][:, runs])
            end = path[-1][:, schedules.index(schedule)]
            rows.append((LABELS[init], str(schedule), str(mean_with_interval(end))))
    return Grid(
        f"|x − x*| at time {time:g}, step {size.coarse:g}: best strength of each shape",
        _COLUMNS,
        tuple(rows),
    )


def _checks(
    ends: dict[str, Mean],
    flows: dict[str, float],
    screened: Screened,
    residuals: dict[str, Residuals],
    early: dict[str, tuple[Schedule, float]],
) -> tuple[Check, ...]:
    pilot, spred, penalty = ends["pilot"], ends["spred"], ends["l1"]
    # Not only nearer: further apart than the seeds scatter.
    apart = pilot.mean + pilot.half < spred.mean - spred.half
    shapes = {
        init: best_of(schedules, path[-1])[0].shape
        for init, (schedules, _, path) in screened.items()
    }
    # Decaying schedules are the method's idea; against L1 as it is commonly used, constant, the paper's
    # ordering holds, and against L1 with a schedule of its own it does not. So both are asked.
    constant = _best_constant(screened, "l1")
    lemma = max(r.lemma for r in residuals.values())
    theorem = max(r.theorem for r in residuals.values())
    printed = max(r.printed for r in residuals.values())
    return (
        Check(
            "PILoT's start ends nearer to the truth than spred's, intervals apart",
            f"{pilot} | {spred}",
            apart,
        ),
        Check(
            "spred's flow (Eq. 7) ends where descent at this step does, within 1 %",
            f"{flows['spred']:.4g} | {spred.mean:.4g}",
            abs(flows["spred"] - spred.mean) <= 0.01 * spred.mean,
        ),
        Check(
            "PILoT, best schedule, ends nearer than L1 with its best constant strength",
            f"{pilot.mean:.3g} | {constant:.3g}",
            pilot.mean < constant,
        ),
        Check(
            "PILoT, best schedule, ends nearer than L1 with its best schedule",
            f"{pilot.mean:.3g} | {penalty.mean:.3g}",
            pilot.mean < penalty.mean,
        ),
        Check(
            "PILoT ends nearer than L1 where both take a geometric schedule that acts at once",
            f"{early['pilot'][1]:.3g} | {early['l1'][1]:.3g}",
            early["pilot"][1] < early["l1"][1],
        ),
        Check(
            "L1's best schedule is a constant one",
            shapes["l1"],
            shapes["l1"] == "constant",
        ),
        Check(
            "Lemma B.1 holds along a trajectory within 1e-6",
            f"{lemma:.1e}",
            lemma < 1e-6,
        ),
        Check(
            "Theorem 2.1 with a ~ exp(−4A) holds within 1e-6",
            f"{theorem:.1e}",
            theorem < 1e-6,
        ),
        Check(
            "Theorem 2.1 with a as printed, exp(−2A), holds within 1e-6",
            f"{printed:.1e}",
            printed < 1e-6,
        ),
    )


def _best_constant(screened: Screened, init: str) -> float:
    schedules, _, path = screened[init]
    runs = runs_of(schedules, "constant")
    return best_of([schedules[run] for run in runs], path[-1][:, runs])[1]
