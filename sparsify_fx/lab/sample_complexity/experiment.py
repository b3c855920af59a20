"""sample-complexity: what a sparser one-hidden-layer network needs: fewer samples, fewer steps, a rougher start."""

from __future__ import annotations

from dataclasses import asdict

import torch

from sparsify_fx.lab.base import Findings, experiment
from sparsify_fx.lab.common.statistics import Line, Mean, fit_line
from sparsify_fx.lab.sample_complexity.checks import (
    bound_checks,
    line_checks,
    once_checks,
    other_checks,
)
from sparsify_fx.lab.sample_complexity.figures import draw, draw_transition
from sparsify_fx.lab.sample_complexity.geometry import hessian_bounds, samples_needed
from sparsify_fx.lab.sample_complexity.grids import (
    bounds_grids,
    needed_grid,
    once_grid,
    pruning_grid,
    recall_grid,
)
from sparsify_fx.lab.sample_complexity.pruning import pruned_errors, pruned_once
from sparsify_fx.lab.sample_complexity.rates import METHODS, Speed, means_of, rates
from sparsify_fx.lab.sample_complexity.runs import (
    FULL,
    Size,
    noisy_errors,
    radii,
    transitions,
)
from sparsify_fx.lab.sample_complexity.tensor_start import StartQuality, start_qualities
from sparsify_fx.tables.fitting import Grid, Value


@experiment(
    "sample-complexity",
    paper="[Zhang 2021], Algorithm 1, Lemma 1, Theorems 1 and 2, section 4.1, Figs. 2 to 6",
    claim="With r inputs per neuron, the convex region's radius falls and the convergence rate grows as sqrt(r), the "
    "samples needed grow as r; accelerated descent is faster than descent; IMP is best at the teacher's sparsity.",
)
def sample_complexity(full: bool, seed: int) -> Findings:
    """Figs. 2 to 6 of [Zhang 2021] on synthetic data, and the tensor initialization."""
    return measure(FULL if full else Size(), seed)


_NOTES = (
    "Fig. 7, IMP of LeNet-5 on digits: sparsify-fx lab imp-lenet5",
    "Fig. 6: the paper does not say where IMP starts. A near start, |W - W*| = 0.5 |W*|, holds most of the teacher's "
    "mask before any training; a blind one, a random direction of the teacher's length, holds what chance gives.",
    "--full has the paper's K, d and N, its 100 runs in Figs. 2 and 4, eta and beta of Fig. 3, and 10,000 steps. Not "
    "in the paper's text, so chosen here: r and noise on the axes, runs of Figs. 3, 5 and 6, eta and beta elsewhere.",
    "The Hessian of the empirical risk, where it exists, is that of Gauss and Newton and never negative: curvature "
    "that is lost away from the teacher sits in relu's kinks, which no Hessian at a point sees.",
)


def measure(size: Size, seed: int) -> Findings:
    """The whole experiment at a given size."""
    # Each figure seeds its own generator: one can be measured alone, with the numbers that it has here.
    radius, speed = radii(size, seed), rates(size, seed)
    needed = transitions(size, seed)
    noise, pruned = noisy_errors(size, seed), pruned_errors(size, seed)
    starts = start_qualities(size.moments, seed)
    once, bounds = pruned_once(size, seed), hessian_bounds(size, seed)
    counts = samples_needed(size, seed)
    halves = {kept: half for kept, (_, half) in needed.items()}
    lines = _lines(size, radius, speed, halves, noise)
    return Findings(
        grids=(
            Grid(
                "Fig. 2: radius by r",
                ("r", "radius"),
                tuple((kept, str(mean)) for kept, mean in radius.items()),
            ),
            _rates_grid(size, speed),
            Grid(
                "Fig. 4: samples at which half the runs succeed",
                ("r", "N"),
                tuple(halves.items()),
            ),
            _noise_grid(size, noise),
            *(pruning_grid(start, pruned) for start in size.imp_starts),
            *(recall_grid(start, pruned) for start in size.imp_starts),
            once_grid(once),
            *bounds_grids(bounds),
            needed_grid(counts),
            _lines_grid(lines),
            _starts_grid(starts),
        ),
        checks=(
            *line_checks(lines),
            *other_checks(size, speed, pruned, starts),
            *once_checks(once),
            *bound_checks(bounds, counts),
        ),
        figures={
            "sample-complexity": lambda figure: draw(
                figure, size, radius, speed, halves, noise, pruned
            ),
            "sample-complexity-transition": lambda figure: draw_transition(
                figure, needed
            ),
        },
        settings=asdict(size),
        notes=_NOTES,
    )


def _lines(
    size: Size,
    radius: dict[int, Mean],
    speed: Speed,
    halves: dict[int, float],
    noise: dict[tuple[float, int], Mean],
) -> dict[str, Line]:
    """The straight lines that the theory predicts: over sqrt(r), but for the samples, which grow as r."""
    by_rank = {kept: mean.mean for kept, mean in radius.items()}
    lines = {"radius against sqrt(r)": _line(by_rank, root=True)}
    for method in METHODS:
        found = means_of(speed.measured, method)
        lines[f"{method}'s measured rate against sqrt(r)"] = _line(found, root=True)
    for method in METHODS:
        found = means_of(speed.slowest, method)
        lines[f"{method}'s slowest mode against sqrt(r)"] = _line(found, root=True)
    lines["samples against r"] = _line(halves)
    for level in size.noise_levels:
        found = {kept: noise[level, kept].mean for kept in size.noise_ranks}
        lines[f"error at noise {level:g} against sqrt(r)"] = _line(found, root=True)
    return lines


def _line(found: dict[int, float], *, root: bool = False) -> Line:
    ranks = torch.tensor(list(found), dtype=torch.float64)
    return fit_line(
        ranks.sqrt() if root else ranks,
        torch.tensor(list(found.values()), dtype=torch.float64),
    )


def _rates_grid(size: Size, speed: Speed) -> Grid:
    columns = ["r"]
    for how in ("measured", "slowest mode"):
        columns += [f"{method}, {how}" for method in METHODS]
    rows: list[tuple[Value, ...]] = []
    for kept in size.rate_ranks:
        measured = [_fine(speed.measured[method, kept]) for method in METHODS]
        slowest = [_fine(speed.slowest[method, kept]) for method in METHODS]
        rows.append((kept, *measured, *slowest))
    title = "Fig. 3: rate per step by r, with 0.95 intervals"
    return Grid(title, tuple(columns), tuple(rows))


def _fine(rate: Mean) -> str:
    # Rates lie near 1 and differ in the third decimal, where three significant digits show nothing.
    return f"{rate.mean:.5f} ± {rate.half:.1g}"


def _noise_grid(size: Size, noise: dict[tuple[float, int], Mean]) -> Grid:
    rows: list[tuple[Value, ...]] = []
    for kept in size.noise_ranks:
        rows.append((kept, *(str(noise[level, kept]) for level in size.noise_levels)))
    return Grid(
        "Fig. 5: relative error by r and noise",
        ("r", *(f"{level:g}" for level in size.noise_levels)),
        tuple(rows),
    )


def _lines_grid(lines: dict[str, Line]) -> Grid:
    return Grid(
        "straight lines",
        ("", "slope", "intercept", "R²"),
        tuple(
            (name, line.slope, line.intercept, line.r2) for name, line in lines.items()
        ),
    )


def _starts_grid(starts: list[StartQuality]) -> Grid:
    return Grid(
        "tensor initialisation",
        ("samples", "relative error of the start", "median", "AGD from it succeeds"),
        tuple(
            (f"{found.samples:,}", str(found.error), found.median, found.success)
            for found in starts
        ),
    )
