"""diagonal: sparse regression with a diagonal linear network, from PILoT's and spred's start and with L1."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from sparsify_fx.lab.base import Check, Findings, experiment
from sparsify_fx.lab.bregman import Residuals, check_mirror_flow, potential, width_at
from sparsify_fx.lab.diagonal_problem import INITS, SHAPES, Schedule
from sparsify_fx.lab.diagonal_runs import (
    FULL,
    Screened,
    Size,
    best_of,
    early_schedules,
    escapes,
    final_flow,
    nearest,
    problem_of,
    screen,
    trajectories,
)
from sparsify_fx.lab.statistics import Mean, mean_with_interval, t_quantile
from sparsify_fx.tables.grids import Grid

LABELS = {"pilot": "m ⊙ w, PILoT start", "spred": "m ⊙ w, spred start", "l1": "x, L1"}


def draw_distances(
    paths: dict[str, tuple[Tensor, Tensor]], best: dict[str, Schedule], figure: Any
) -> None:
    """Fig. 2 of [Jacobs 2025]: distance to the truth over time with 0.95 bands."""
    figure.set_size_inches(6, 4)
    axes = figure.subplots()
    for init, (times, path) in paths.items():
        mean, half = _band(path)
        (line,) = axes.plot(times, mean, label=f"{LABELS[init]}: {best[init]}")
        axes.fill_between(
            times,
            (mean - half).clamp(min=1e-9),
            mean + half,
            color=line.get_color(),
            alpha=0.2,
        )
    axes.set(xlabel="time", ylabel="|x − x*|", yscale="log", ylim=(1e-3, 10))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def draw_schedules(screened: Screened, figure: Any) -> None:
    """Fig. 5 of [Jacobs 2025]: every shape at its best strength."""
    figure.set_size_inches(12, 4)
    for axes, init in zip(figure.subplots(1, 3, sharey=True), INITS, strict=True):
        schedules, times, path = screened[init]
        for shape in SHAPES:
            where = [
                index
                for index, schedule in enumerate(schedules)
                if schedule.shape == shape
            ]
            index = min(where, key=lambda run: float(path[-1, :, run].mean()))
            axes.plot(times, path[:, :, index].mean(1), label=str(schedules[index]))
        axes.set(
            title=LABELS[init],
            xlabel="time",
            ylabel="|x − x*|",
            yscale="log",
            ylim=(1e-3, 10),
        )
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)


def draw_potential(figure: Any) -> None:
    """Fig. 1 of [Jacobs 2025]: the potential of one weight with x₀ = 1 and m² − w² = 1, less its minimum, by A = ∫α."""
    figure.set_size_inches(6, 4)
    axes = figure.subplots()
    point = torch.linspace(-1, 3, 400, dtype=torch.float64)
    outer = torch.tensor((0.5 + 1.25**0.5) ** 0.5, dtype=torch.float64)
    up, down = (outer + 1 / outer) / 2, (outer - 1 / outer) / 2
    for total in (0.0, 0.25, 0.5, 1.0, 2.0):
        values = potential(point, up, down, width_at(up, down, total))
        axes.plot(point, values - values.min(), label=f"A = {total:g}")
    axes.set(xlabel="x", ylabel="R(x) − min R")
    axes.grid(alpha=0.3)
    axes.legend()


def _band(path: Tensor) -> tuple[Tensor, Tensor]:
    return path.mean(1), t_quantile(path.shape[1] - 1) * path.std(1) / path.shape[
        1
    ] ** 0.5


@experiment(
    "diagonal",
    paper="[Jacobs 2025], section 4, Figs. 1, 2 and 5, Theorem 2.1, Lemma B.1, Eq. 7",
    claim="On sparse regression with m ⊙ w, PILoT's start (m² − w² = 1) ends nearer to the truth than spred's "
    "(m² = w²), which cannot flip a sign; weight decay makes a mirror flow of a potential that changes in time.",
)
def diagonal(full: bool, seed: int) -> Findings:
    """Figs. 1, 2 and 5, and the numeric check of Theorem 2.1 and Lemma B.1."""
    return measure(FULL if full else Size(), seed)


def measure(size: Size, seed: int) -> Findings:
    """The whole experiment at a given size."""
    problem = problem_of(size, seed)
    screened = {
        time: screen(size, problem, time) for time in (size.time, size.long_time)
    }
    best = nearest(screened[size.time])
    paths = trajectories(size, problem, best)
    flows = {
        init: float(final_flow(problem, init, [best[init]]).mean())
        for init in ("pilot", "spred")
    }
    ends = {init: mean_with_interval(path[-1]) for init, (_, path) in paths.items()}
    escaped, early = escapes(size, problem), early_schedules(size, problem)
    moments = torch.linspace(0, min(20.0, size.time), 41, dtype=torch.float64)
    residuals = {
        shape: check_mirror_flow(
            problem, Schedule(shape, 1.0, float(moments[-1])), moments
        )
        for shape in SHAPES
    }
    return Findings(
        grids=(
            Grid(
                f"|x − x*| at time {size.time:g}, step {size.rate:g}, best schedule",
                ("", "schedule", "distance", "exact flow"),
                tuple(
                    (LABELS[i], str(best[i]), str(ends[i]), flows.get(i, "-"))
                    for i in INITS
                ),
            ),
            *(_by_shape(screened[time], size, time) for time in screened),
            Grid(
                "the best of constant and geometric schedules, by start, time and step (0: exact flow)",
                ("start", "time", "step", "distance"),
                tuple(
                    (start, time, rate, str(mean))
                    for (start, time, rate), mean in escaped.items()
                ),
            ),
            Grid(
                f"geometric schedules that act within a few {size.early:g} time units",
                ("", "schedule", "distance"),
                tuple(
                    (LABELS[init], str(schedule), distance)
                    for init, (schedule, distance) in early.items()
                ),
            ),
            Grid(
                "largest residual along a trajectory",
                (
                    "schedule",
                    "Lemma B.1",
                    "Theorem 2.1, a ~ exp(−4A)",
                    "as printed, exp(−2A)",
                ),
                tuple(
                    (shape, found.lemma, found.theorem, found.printed)
                    for shape, found in residuals.items()
                ),
            ),
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


def _by_shape(screened: Screened, size: Size, time: float) -> Grid:
    rows = []
    for init, (schedules, _, path) in screened.items():
        for shape in SHAPES:
            runs = [
                index
                for index, schedule in enumerate(schedules)
                if schedule.shape == shape
            ]
            schedule, _ = best_of([schedules[run] for run in runs], path[-1][:, runs])
            end = path[-1][:, schedules.index(schedule)]
            rows.append((LABELS[init], str(schedule), str(mean_with_interval(end))))
    return Grid(
        f"|x − x*| at time {time:g}, step {size.coarse:g}: best strength of each shape",
        _COLUMNS,
        tuple(rows),
    )


_COLUMNS = ("", "schedule", "distance")


def _checks(
    ends: dict[str, Mean],
    flows: dict[str, float],
    screened: Screened,
    residuals: dict[str, Residuals],
    early: dict[str, tuple[Schedule, float]],
) -> tuple[Check, ...]:
    pilot, spred, penalty = ends["pilot"], ends["spred"], ends["l1"]
    apart = pilot.mean + pilot.half < spred.mean - spred.half
    shapes = {
        init: best_of(schedules, path[-1])[0].shape
        for init, (schedules, _, path) in screened.items()
    }
    constant = _best_constant(screened, "l1")
    lemma, theorem = (
        max(r.lemma for r in residuals.values()),
        max(r.theorem for r in residuals.values()),
    )
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
    runs = [
        index
        for index, schedule in enumerate(schedules)
        if schedule.shape == "constant"
    ]
    return best_of([schedules[run] for run in runs], path[-1][:, runs])[1]
