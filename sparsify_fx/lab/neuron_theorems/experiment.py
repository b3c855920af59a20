"""neuron-theorems: no parameterization replaces width, β by layer, and finite samples, for one neuron."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sparsify_fx.figures import legend, panels, series
from sparsify_fx.lab.base import Check, Findings, experiment
from sparsify_fx.lab.common.neuron import QUADRANTS, balanced_start, quadrant_name
from sparsify_fx.lab.neuron_theorems.parameterized import (
    REPARAMETERIZATIONS,
    by_layer,
    follow,
)
from sparsify_fx.lab.neuron_theorems.samples import Finite, finite_samples
from sparsify_fx.tables.fitting import Grid, Value


@dataclass(frozen=True)
class Size:
    """How large the experiment is. betas: (β₁ of a, β₂ of w) of Theorem 5.2; noise: of the finite samples' labels."""

    runs: int = 20
    betas: tuple[tuple[float, float], ...] = ((2.0, 1.0), (1.0, 1.0), (1.0, 2.0))
    rate: float = 0.02
    steps: int = 1500
    finite_runs: int = 200
    samples: int = 50
    noise: float = 0.3
    finite_time: float = 8.0


FULL = Size(runs=100, rate=0.005, steps=20_000, finite_runs=4000)
FOUND = 1e-2
"""A run has found the teacher when |aw − 1| is below this and w is positive."""

Ends = dict[str, dict[tuple[int, int], Tensor]]


@experiment(
    "neuron-theorems",
    paper="[Gadhikar 2025], Theorems 5.2 and 5.4; [Gadhikar 2024], appendix A.1",
    claim="From w < 0 no parameterization of one neuron reaches the teacher, from a < 0 < w one with β₁ > β₂ does; a "
    "finite sample moves the end to sqrt(C₂/C₁) and needs twice the samples of linear regression.",
)
def neuron_theorems(full: bool, seed: int) -> Findings:
    """Theorems 5.2 and 5.4 of [Gadhikar 2025] and the finite samples of [Gadhikar 2024]."""
    return measure(FULL if full else Size(), seed)


def measure(size: Size, seed: int) -> Findings:
    """The whole experiment at a given size."""
    ends = {name: _ends(size, name, seed) for name in REPARAMETERIZATIONS}
    start = _start(size, -1, 1, seed)
    layers = {
        betas: found(by_layer(start, betas, rate=size.rate, steps=size.steps))
        for betas in size.betas
    }
    finite, ratio, plain = finite_samples(
        size.finite_runs, size.samples, size.noise, size.finite_time, seed
    )
    return Findings(
        grids=(_ends_grid(ends), _layers_grid(layers), _finite_grid(finite)),
        checks=_checks(ends, layers, finite, ratio / plain),
        figures={"neuron-theorems": lambda figure: draw(ends, figure)},
        settings=asdict(size),
        notes=(
            "Theorem 5.4 is about flows; here steps are small. w comes to 0 from below and stays, as its "
            "largest end shows.",
        ),
    )


def _start(size: Size, outer: int, first: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return balanced_start(size.runs, 1, generator, outer=outer, first=first)


def _ends(size: Size, name: str, seed: int) -> dict[tuple[int, int], Tensor]:
    # All quadrants in one batch, one after the other.
    starts = torch.cat([_start(size, *quadrant, seed) for quadrant in QUADRANTS])
    how = REPARAMETERIZATIONS[name]
    ends = follow(how, starts, rate=size.rate, steps=size.steps)
    return dict(zip(QUADRANTS, ends.view(-1, size.runs, 2), strict=True))


def found(ends: Tensor) -> float:
    """The share of runs that found the teacher."""
    near = ((ends.prod(1) - 1).abs() < FOUND) & (ends[:, 1] > 0)
    return float(near.double().mean())


def _ends_grid(ends: Ends) -> Grid:
    rows: list[tuple[Value, ...]] = []
    for name, by_quadrant in ends.items():
        shares = [found(end) for end in by_quadrant.values()]
        rows.append((name, *shares, f"{_largest(by_quadrant):.1g}"))
    quadrants = (quadrant_name(*quadrant) for quadrant in QUADRANTS)
    columns = ("", *quadrants, "largest w from w < 0")
    return Grid(
        "Theorem 5.4: share of runs that find the teacher", columns, tuple(rows)
    )


def _largest(by_quadrant: dict[tuple[int, int], Tensor]) -> float:
    """How large w ends, over all runs from w < 0."""
    below = [end[:, 1] for (_, first), end in by_quadrant.items() if first < 0]
    return float(torch.cat(below).max())


def _layers_grid(layers: dict[tuple[float, float], float]) -> Grid:
    rows = tuple((first, second, share) for (first, second), share in layers.items())
    title = "Theorem 5.2 in the library, β by layer: share found from a < 0 < w"
    return Grid(title, ("β₁ of a", "β₂ of w", "share"), rows)


def _finite_grid(finite: dict[tuple[int, int], Finite]) -> Grid:
    rows = tuple(
        (quadrant_name(*quadrant), one.alive, f"{one.off:.1g}")
        for quadrant, one in finite.items()
    )
    columns = ("", "share with C̃₂ > 0", "largest error of the closed form")
    return Grid("finite samples", columns, rows)


def _checks(
    ends: Ends,
    layers: dict[tuple[float, float], float],
    finite: dict[tuple[int, int], Finite],
    ratio: float,
) -> tuple[Check, ...]:
    checks = []
    for name, by_quadrant in ends.items():
        shares = {quadrant: found(end) for quadrant, end in by_quadrant.items()}
        failed = shares[1, -1] == shares[-1, -1] == 0 and _largest(by_quadrant) < 1e-6
        told = f"{shares[1, -1]:g} and {shares[-1, -1]:g} found it"
        told += f", w at most {_largest(by_quadrant):.1g}"
        claim = f"Theorem 5.4, {name}: from w < 0 no run reaches the teacher"
        checks.append(Check(claim, told, failed))
    for (first, second), share in layers.items():
        wanted = share == 1 if first > second else share == 0
        many = "all" if first > second else "none"
        betas = f"β₁ = {first:g}, β₂ = {second:g}"
        claim = f"Theorem 5.2, {betas}: {many} found from a < 0 < w"
        checks.append(Check(claim, f"{share:g}", wanted))
    off = max(one.off for one in finite.values())
    claim = "finite samples: w(t) is the closed form with the sample's C₁ and C̃₂, within 1e-6"
    checks.append(Check(claim, f"{off:.2g}", off < 1e-6))
    below = [one.alive for (_, first), one in finite.items() if first < 0]
    claim = "finite samples: from w < 0 noise alone decides, C̃₂ > 0 in half of the runs"
    told = " and ".join(f"{share:.3g}" for share in below)
    checks.append(Check(claim, told, all(0.4 < share < 0.6 for share in below)))
    claim = "finite samples: aw = C₂/C₁ has twice the variance of linear regression"
    checks.append(Check(claim, f"{ratio:.3g} times", 1.6 < ratio < 2.6))
    return tuple(checks)


def draw(ends: Ends, figure: Any) -> None:
    """Where a and w end, by parameterization; the teachers are aw = 1 with w > 0."""
    (axes,) = panels(figure)
    for index, (name, by_quadrant) in enumerate(ends.items()):
        points = torch.cat(list(by_quadrant.values()))
        style = {**series(index), "linestyle": ""}
        axes.plot(points[:, 1], points[:, 0], label=name, **style)
    axes.set(xlabel="w at the end", ylabel="a at the end", title="Theorem 5.4")
    axes.grid(alpha=0.3)
    legend(figure, axes)
