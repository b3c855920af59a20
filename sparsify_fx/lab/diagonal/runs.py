"""What `diagonal` measures: every schedule, the paper's setting, and how spred escapes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify_fx.lab.common.statistics import Mean, mean_with_interval
from sparsify_fx.lab.diagonal.problem import (
    INITS,
    SHAPES,
    STARTS,
    Regression,
    Schedule,
    descend,
    draw_regression,
    exact_flow,
)


@dataclass(frozen=True)
class Size:
    """How large the experiment is.

    rate, time: of Figs. 2 and 5, 10⁶ steps of 10⁻⁴; coarse: the step that tries all schedules; early: the unit of time
    of schedules that act at once, as the paper's sums over single steps do.
    """

    seeds: int = 5
    samples: int = 40
    width: int = 100
    nonzeros: int = 5
    totals: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
    rate: float = 1e-4
    coarse: float = 1e-2
    time: float = 100.0
    long_time: float = 600.0
    escape_rates: tuple[float, ...] = (1e-2,)
    escape_totals: tuple[float, ...] = (3.0, 10.0, 30.0)
    early: float = 0.01


# The default is the paper's size but for this smaller step, which takes 700,000 steps from each start.
FULL = Size(escape_rates=(1e-2, 1e-3))


def problem_of(size: Size, seed: int) -> Regression:
    """A regression problem for each of `size.seeds` seeds, drawn from `seed`."""
    return draw_regression(size.seeds, size.samples, size.width, size.nonzeros, seed)


def all_schedules(size: Size, time: float, unit: float = 1.0) -> list[Schedule]:
    """Every shape at every total strength."""
    schedules = []
    for shape in SHAPES:
        schedules += [Schedule(shape, total, time, unit) for total in size.totals]
    return schedules


def runs_of(schedules: list[Schedule], shape: str) -> list[int]:
    """The indices of the schedules of one shape."""
    return [run for run, schedule in enumerate(schedules) if schedule.shape == shape]


def best_of(schedules: list[Schedule], distances: Tensor) -> tuple[Schedule, float]:
    """The schedule with the smallest mean final distance; `distances` is [seeds, runs]."""
    # One schedule for all seeds: chosen seed by seed, the minimum would profit from noise.
    means = distances.mean(0)
    index = int(means.argmin())
    return schedules[index], float(means[index])


Screened = dict[str, tuple[list[Schedule], Tensor, Tensor]]
"""By init: schedules, times, and distances [points, seeds, runs]."""


def screen(size: Size, problem: Regression, time: float) -> Screened:
    """Every init with every schedule by gradient descent at the coarse step: Fig. 5."""
    schedules = all_schedules(size, time)
    return {
        init: (schedules, *descend(problem, init, schedules, rate=size.coarse))
        for init in INITS
    }


def nearest(screened: Screened) -> dict[str, Schedule]:
    """The best schedule of every init."""
    return {
        init: best_of(schedules, path[-1])[0]
        for init, (schedules, _, path) in screened.items()
    }


def trajectories(
    size: Size, problem: Regression, best: dict[str, Schedule]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Fig. 2: times and distances [points, seeds] of every init with its best schedule, at the paper's step."""
    found = {}
    for init, schedule in best.items():
        times, path = descend(problem, init, [schedule], rate=size.rate)
        found[init] = (times, path[:, :, 0])
    return found


def final_flow(problem: Regression, init: str, schedules: list[Schedule]) -> Tensor:
    """Distances at the end of the exact flow, [seeds, runs]."""
    # The early points keep the integrator's first steps short, where a schedule that acts at once is
    # strongest.
    grid = torch.tensor(
        [0.0, 1e-4, 1e-3, 1e-2, 0.1, 1.0, schedules[0].time], dtype=torch.float64
    )
    points, _ = exact_flow(problem, init, schedules, grid)
    return problem.distance(points[-1])


def escapes(size: Size, problem: Regression) -> dict[tuple[str, float, float], Mean]:
    """By (start, time, rate), rate 0 for the exact flow: final distance with the best of a few schedules."""
    found = {}
    for time in (size.time, size.long_time):
        schedules = _few_schedules(size, time)
        for start in STARTS:
            ends = {
                rate: descend(problem, start, schedules, rate=rate)[1][-1]
                for rate in size.escape_rates
            }
            # From a rounded start the flow would tell of the last bits alone; Eq. 7 speaks of the exact.
            if start in ("pilot", "spred"):
                ends[0.0] = final_flow(problem, start, schedules)
            for rate, end in ends.items():
                best = int(end.mean(0).argmin())
                found[start, time, rate] = mean_with_interval(end[:, best])
    return found


def _few_schedules(size: Size, time: float) -> list[Schedule]:
    """Constant and geometric ones at `size.escape_totals`."""
    schedules = []
    for shape in ("constant", "geometric"):
        schedules += [Schedule(shape, total, time) for total in size.escape_totals]
    return schedules


def early_schedules(
    size: Size, problem: Regression
) -> dict[str, tuple[Schedule, float]]:
    """The best geometric schedule that acts within a few `size.early`, by init; L1 by descent, the others as flow."""
    schedules = [
        Schedule("geometric", total, size.time, size.early) for total in size.totals
    ]
    # Flows where there are any: descent needs steps well below `size.early` for the whole time, as L1
    # takes here, whose slope jumps at zero.
    ends = {init: final_flow(problem, init, schedules) for init in ("pilot", "spred")}
    ends["l1"] = descend(problem, "l1", schedules, rate=size.early / 10)[1][-1]
    return {init: best_of(schedules, end) for init, end in ends.items()}
