"""sample-complexity: what a sparser one-hidden-layer network needs: fewer samples, fewer steps, a rougher start."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch

from sparsify_fx.lab.base import Check, Findings, experiment
from sparsify_fx.lab.sample_rates import METHODS, Rates, Speed, rates
from sparsify_fx.lab.sample_runs import (
    FULL,
    Size,
    noisy_errors,
    pruned_errors,
    radii,
    transitions,
)
from sparsify_fx.lab.statistics import Line, Mean, fit_line
from sparsify_fx.lab.tensor_start import StartQuality, start_qualities
from sparsify_fx.tables.grids import Grid

Pruned = dict[int, list[tuple[float, Mean]]]


@experiment(
    "sample-complexity",
    paper="[Zhang 2021], Algorithm 1, Lemma 1, Theorems 1 and 2, Figs. 2 to 6",
    claim="With r inputs per neuron, the convex region's radius falls and the convergence rate grows as sqrt(r), the "
    "samples needed grow as r; accelerated descent is faster than descent; IMP is best at the teacher's sparsity.",
)
def sample_complexity(full: bool, seed: int) -> Findings:
    """Figs. 2 to 6 on synthetic data, and the tensor initialisation."""
    return measure(FULL if full else Size(), seed)


def measure(size: Size, seed: int) -> Findings:
    """The whole experiment at a given size."""
    radius, speed, needed = (
        radii(size, seed),
        rates(size, seed),
        transitions(size, seed),
    )
    noise, pruned, starts = (
        noisy_errors(size, seed),
        pruned_errors(size, seed),
        start_qualities(size.moments, seed),
    )
    halves = {kept: half for kept, (_, half) in needed.items()}
    lines = {
        "radius against sqrt(r)": _line(
            {k: v.mean for k, v in radius.items()}, root=True
        ),
        **{
            f"{method}'s measured rate against sqrt(r)": _line(
                _means(speed.measured, method), root=True
            )
            for method in METHODS
        },
        **{
            f"{method}'s slowest mode against sqrt(r)": _line(
                _means(speed.slowest, method), root=True
            )
            for method in METHODS
        },
        "samples against r": _line(halves),
    }
    for level in size.noise_levels:
        found = {kept: noise[level, kept].mean for kept in size.noise_ranks}
        lines[f"error at noise {level:g} against sqrt(r)"] = _line(found, root=True)
    return Findings(
        grids=(
            Grid(
                "Fig. 2: radius by r",
                ("r", "radius"),
                tuple((k, str(v)) for k, v in radius.items()),
            ),
            Grid(
                "Fig. 3: rate per step by r, with 0.95 intervals",
                (
                    "r",
                    *(
                        f"{method}, {how}"
                        for how in ("measured", "slowest mode")
                        for method in METHODS
                    ),
                ),
                tuple(
                    (
                        k,
                        *(
                            _fine(found[m, k])
                            for found in (speed.measured, speed.slowest)
                            for m in METHODS
                        ),
                    )
                    for k in size.rate_ranks
                ),
            ),
            Grid(
                "Fig. 4: samples at which half the runs succeed",
                ("r", "N"),
                tuple(halves.items()),
            ),
            Grid(
                "Fig. 5: relative error by r and noise",
                ("r", *(f"{level:g}" for level in size.noise_levels)),
                tuple(
                    (k, *(str(noise[level, k]) for level in size.noise_levels))
                    for k in size.noise_ranks
                ),
            ),
            Grid(
                "Fig. 6: IMP's test error by the share of weights left",
                ("left", *(f"N = {samples}" for samples in pruned)),
                tuple(
                    (f"{rows[0][0]:.3f}", *(str(mean) for _, mean in rows))
                    for rows in zip(*pruned.values(), strict=True)
                ),
            ),
            Grid(
                "straight lines",
                ("", "slope", "intercept", "R²"),
                tuple((k, *_values(v)) for k, v in lines.items()),
            ),
            Grid(
                "tensor initialisation",
                (
                    "samples",
                    "relative error of the start",
                    "median",
                    "AGD from it succeeds",
                ),
                tuple(
                    (
                        f"{found.samples:,}",
                        str(found.error),
                        found.median,
                        found.success,
                    )
                    for found in starts
                ),
            ),
        ),
        checks=(*_line_checks(lines), *_other_checks(size, speed, pruned, starts)),
        figures={
            "sample-complexity": lambda figure: draw(
                figure, size, radius, speed, halves, noise, pruned
            ),
            "sample-complexity-transition": lambda figure: draw_transition(
                figure, needed
            ),
        },
        settings=asdict(size),
        notes=("Fig. 7, IMP of LeNet-5 on digits: sparsify-fx lab imp-lenet5",),
    )


def draw(
    figure: Any,
    size: Size,
    radius: dict[int, Mean],
    speed: Speed,
    halves: dict[int, float],
    noise: dict[tuple[float, int], Mean],
    pruned: Pruned,
) -> None:
    """Figs. 2, 3, 4, 5 and 6 of [Zhang 2021] as lines."""
    figure.set_size_inches(13, 8)
    places = figure.subplots(2, 3)
    roots = [kept**0.5 for kept in radius]
    means = list(radius.values())
    places[0, 0].errorbar(
        roots,
        [m.mean for m in means],
        yerr=[m.half for m in means],
        fmt="o-",
        capsize=3,
    )
    places[0, 0].set(
        xlabel="sqrt(r)",
        ylabel="radius, relative to |W*|",
        title="Fig. 2: convex region",
    )
    for (method, kept), path in speed.paths.items():
        steps = [size.rate_every * index for index in range(len(path))]
        places[0, 1].plot(
            steps, path, "-" if method == "AGD" else "--", label=f"{method}, r = {kept}"
        )
    places[0, 1].set(
        xlabel="step",
        ylabel="relative error",
        yscale="log",
        title="Fig. 3a: convergence",
    )
    for method, colour in zip(METHODS, ("tab:blue", "tab:orange"), strict=True):
        for rates_of, style, how in (
            (speed.measured, "o-", "measured"),
            (speed.slowest, "x:", "slowest mode"),
        ):
            found = _means(rates_of, method)
            places[0, 2].plot(
                [kept**0.5 for kept in found],
                list(found.values()),
                style,
                color=colour,
                label=f"{method}, {how}",
            )
    places[0, 2].set(
        xlabel="sqrt(r)", ylabel="rate per step", title="Fig. 3b: convergence rate"
    )
    places[1, 0].plot(list(halves), list(halves.values()), "o-")
    places[1, 0].set(
        xlabel="r", ylabel="N at which half succeed", title="Fig. 4: samples"
    )
    for level in size.noise_levels:
        errors = [noise[level, kept].mean for kept in size.noise_ranks]
        places[1, 1].plot(
            [kept**0.5 for kept in size.noise_ranks],
            errors,
            "o-",
            label=f"noise {level:g}",
        )
    places[1, 1].set(xlabel="sqrt(r)", ylabel="relative error", title="Fig. 5: noise")
    for samples, rows in pruned.items():
        places[1, 2].plot(
            [100 * left for left, _ in rows],
            [m.mean for _, m in rows],
            "o-",
            label=f"N = {samples}",
        )
    places[1, 2].axvline(
        100 * size.imp_kept / size.imp_width, color="gray", linestyle=":"
    )
    places[1, 2].set(
        xlabel="weights left, %", ylabel="test error", yscale="log", title="Fig. 6: IMP"
    )
    places[1, 2].invert_xaxis()
    for axes in places.flat:
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)


def draw_transition(
    figure: Any, needed: dict[int, tuple[dict[int, float], float]]
) -> None:
    """Fig. 4 of [Zhang 2021]: share of successes by N for every r."""
    figure.set_size_inches(6, 4)
    axes = figure.subplots()
    for kept, (shares, _) in needed.items():
        axes.plot(list(shares), list(shares.values()), "o-", label=f"r = {kept}")
    axes.set(xlabel="samples N", ylabel="share of successes")
    axes.grid(alpha=0.3)
    axes.legend()


def _means(found: Rates, method: str) -> dict[int, float]:
    return {kept: mean.mean for (name, kept), mean in found.items() if name == method}


def _fine(rate: Mean) -> str:
    return f"{rate.mean:.5f} ± {rate.half:.1g}"


def _line(found: dict[int, float], *, root: bool = False) -> Line:
    ranks = torch.tensor(list(found), dtype=torch.float64)
    return fit_line(
        ranks.sqrt() if root else ranks,
        torch.tensor(list(found.values()), dtype=torch.float64),
    )


def _values(line: Line) -> tuple[float, float, float]:
    return line.slope, line.intercept, line.r2


def _line_checks(lines: dict[str, Line]) -> list[Check]:
    """R² at least 0.95, and the slope's sign as the theory has it."""
    checks = []
    for name, line in lines.items():
        falls = name.startswith("radius")
        right = (line.slope < 0) == falls
        way = "falls" if falls else "grows"
        told = f"R² {line.r2:.4f}, slope {line.slope:.3g}"
        checks.append(
            Check(
                f"{name}: {way} on a line, R² at least 0.95",
                told,
                line.r2 >= 0.95 and right,
            )
        )
    return checks


def _other_checks(
    size: Size, speed: Speed, pruned: Pruned, starts: list[StartQuality]
) -> list[Check]:
    checks = []
    for how, found in (
        ("measured rate", speed.measured),
        ("slowest mode", speed.slowest),
    ):
        gap = min(
            found["GD", kept].mean - found["AGD", kept].mean for kept in size.rate_ranks
        )
        checks.append(
            Check(
                f"AGD's {how} lies below GD's at every r",
                f"by at least {gap:.2g}",
                gap > 0,
            )
        )
    checks += _pruning_checks(size, pruned)
    last = starts[-1]
    checks.append(
        Check(
            f"AGD from the tensor initialisation with {last.samples:,} samples finds the teacher in 95 % of runs",
            f"{last.success:.0%}",
            last.success >= 0.95,
        )
    )
    return checks


def _pruning_checks(size: Size, pruned: Pruned) -> list[Check]:
    """Where IMP's error is smallest; with too few samples for the teacher's own non-zeros, that it stays large."""
    truth, checks = size.imp_kept / size.imp_width, []
    for samples, rows in pruned.items():
        best, error = min(rows, key=lambda row: row[1].mean)
        steps = abs(math.log(best / truth) / math.log(0.8))
        told = f"{best:.3f} left, {steps:.2f} steps off, error {error.mean:.3g} (dense {rows[0][1].mean:.3g})"
        checks.append(
            Check(
                f"IMP, N = {samples}: best within a pruning step of {truth:g} left",
                told,
                steps <= 1,
            )
        )
        if samples <= size.neurons * size.imp_kept:
            claim = f"IMP, N = {samples}: the error stays above 0.1 at every sparsity"
            checks.append(Check(claim, f"at least {error.mean:.3g}", error.mean > 0.1))
    return checks
