"""mirror-flow: optimality and linear rate of m ⊙ w with decaying weight decay, and what neurons lack."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from sparsify_fx.figures import legend, panels, series
from sparsify_fx.lab.base import Check, Findings, experiment
from sparsify_fx.lab.common.statistics import fit_line
from sparsify_fx.lab.diagonal.problem import (
    Regression,
    Schedule,
    draw_regression,
    exact_flow,
)
from sparsify_fx.lab.mirror_flow.brackets import (
    elementwise,
    neuronwise,
    order_matters,
    seen_brackets,
)
from sparsify_fx.lab.mirror_flow.optimum import minimize, off_span, potential_after
from sparsify_fx.tables.fitting import Grid


@dataclass(frozen=True)
class Size:
    """How large the experiment is. totals: ∫α; the schedule is geometric and over at a tenth of `time`."""

    seeds: int = 3
    samples: int = 40
    width: int = 100
    nonzeros: int = 5
    totals: tuple[float, ...] = (0.25, 0.5)
    time: float = 240.0
    points: int = 120


FULL = Size(seeds=10, totals=(0.25, 0.5, 1.0), time=1000.0, points=500)


@dataclass(frozen=True)
class Ended:
    """What became of one flow.

    kkt, distance: by the exponent of a, 4 (what Lemma B.1 implies) and 2 (as printed): the KKT residual, and the way
    to the optimum that Newton's method finds; rate: the loss falls as exp(−rate·t); bounds: λ·min(m₀² − w₀²)·exp(−e∫α)
    with e of 4 and 2; losses: at `times`, the mean over seeds.
    """

    kkt: dict[float, float]
    distance: dict[float, float]
    rate: float
    bounds: dict[float, float]
    times: list[float]
    losses: list[float]


@experiment(
    "mirror-flow",
    paper="[Jacobs 2025], Theorems 2.2 and 2.3, Lemma D.1",
    claim="m ⊙ w whose decay of the factors ends converges linearly to the minimum of the last potential among all x "
    "with Zx = y; with one m for a neuron there is no mirror flow.",
)
def mirror_flow(full: bool, seed: int) -> Findings:
    """Theorems 2.2 and 2.3 and Lemma D.1 of [Jacobs 2025]."""
    return measure(FULL if full else Size(), seed)


def measure(size: Size, seed: int) -> Findings:
    """The whole experiment at a given size."""
    problem = draw_regression(size.seeds, size.samples, size.width, size.nonzeros, seed)
    ended = {total: follow(size, problem, total) for total in size.totals}
    start = torch.randn(
        7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    maps = {"m ⊙ w": (elementwise, start[:6]), "m·w of a neuron": (neuronwise, start)}
    brackets = {}
    for name, (of, at) in maps.items():
        seen = float(seen_brackets(of, at).abs().max())
        brackets[name] = (seen, order_matters(of, at))
    return Findings(
        grids=(_optimum_grid(ended), _rates_grid(ended), _brackets_grid(brackets)),
        checks=_checks(ended, brackets),
        figures={"mirror-flow": lambda figure: draw(ended, figure)},
        settings=asdict(size),
    )


def follow(size: Size, problem: Regression, total: float) -> Ended:
    """The exact flow from PILoT's start, under a geometric schedule that is over at a tenth of the time."""
    schedule = Schedule("geometric", total, size.time, unit=size.time / 4000)
    times = torch.linspace(0, size.time, size.points + 1, dtype=torch.float64)
    path, _ = exact_flow(problem, "pilot", [schedule], times, rtol=1e-8)
    points = path[:, :, 0]
    error = (problem.inputs @ (points - problem.truth)[..., None])[..., 0]
    losses = error.square().sum(-1) / (2 * size.samples)
    kkt, distance, bounds = {}, {}, {}
    # |∇f|² >= λ f with λ of the smallest eigenvalue of ZZᵀ, and m² + w² >= m² − w² = exp(−4∫α) from PILoT's start.
    least = torch.linalg.eigvalsh(problem.inputs @ problem.inputs.mT)[:, 0]
    convex = float(2 * least.min() / size.samples)
    for exponent in (4.0, 2.0):
        potential = potential_after(problem, total, exponent)
        kkt[exponent] = off_span(problem, potential.slope(points[-1]))
        optimum = minimize(problem, potential)
        distance[exponent] = float((points[-1] - optimum).norm(dim=1).max())
        bounds[exponent] = convex * math.exp(-exponent * total)
    mean = losses.mean(1)
    return Ended(
        kkt, distance, _rate(times, losses), bounds, times.tolist(), mean.tolist()
    )


def _rate(times: torch.Tensor, losses: torch.Tensor) -> float:
    """The slowest seed's rate, from the later half of the points before the loss is rounding and integration error."""
    found = []
    for column in losses.T:
        small = (column < 1e-12).nonzero().flatten()
        end = int(small[0]) if len(small) else len(column)
        late = slice(end // 2, end)
        found.append(-fit_line(times[late], column[late].log()).slope)
    return min(found)


def _optimum_grid(ended: dict[float, Ended]) -> Grid:
    rows = []
    for total, found in ended.items():
        residuals = (found.kkt[4.0], found.distance[4.0])
        rows.append((total, *residuals, found.kkt[2.0], found.distance[2.0]))
    columns = ("∫α", "KKT residual", "to the optimum", "as printed: KKT", "to it")
    return Grid("Theorem 2.3: where the flow ends", columns, tuple(rows))


def _rates_grid(ended: dict[float, Ended]) -> Grid:
    rows = [
        (total, found.rate, found.bounds[4.0], found.bounds[2.0])
        for total, found in ended.items()
    ]
    columns = ("∫α", "rate of the loss", "bound, exp(−4∫α)", "as printed, exp(−2∫α)")
    return Grid("Theorem 2.2: the loss falls as exp(−rate·t)", columns, tuple(rows))


def _brackets_grid(brackets: dict[str, tuple[float, float]]) -> Grid:
    rows = tuple((name, *values) for name, values in brackets.items())
    columns = ("", "largest entry of ∂g [∇gᵢ, ∇gⱼ]", "order of two flows matters by")
    return Grid("Lemma D.1: brackets that the weights see", columns, rows)


def _checks(
    ended: dict[float, Ended], brackets: dict[str, tuple[float, float]]
) -> tuple[Check, ...]:
    checks = []
    for exponent, how in ((4.0, "exp(−4∫α)"), (2.0, "exp(−2∫α), as printed")):
        kkt = max(found.kkt[exponent] for found in ended.values())
        far = max(found.distance[exponent] for found in ended.values())
        claim = f"Theorem 2.3 with a ~ {how}: the flow ends at the optimum within 1e-4"
        told = f"KKT residual {kkt:.2g}, distance {far:.2g}"
        checks.append(Check(claim, told, max(kkt, far) < 1e-4))
        apart = min(found.rate / found.bounds[exponent] for found in ended.values())
        claim = f"Theorem 2.2 with A ~ {how}: the loss falls at least that fast"
        checks.append(Check(claim, f"{apart:.3g} times as fast", apart >= 1))
    inside, outside = (values[0] for values in brackets.values())
    checks.append(
        Check("the brackets of m ⊙ w are unseen", f"{inside:.1g}", inside < 1e-12)
    )
    claim = "Lemma D.1: those of a neuron m·w are seen"
    checks.append(Check(claim, f"{outside:.2g}", outside > 1e-3))
    return tuple(checks)


def draw(ended: dict[float, Ended], figure: Any) -> None:
    """The loss over time for each ∫α: straight lines once the decay is over."""
    (axes,) = panels(figure)
    for index, (total, found) in enumerate(ended.items()):
        style = {**series(index), "marker": ""}
        axes.plot(found.times, found.losses, label=f"∫α = {total:g}", **style)
    axes.set(xlabel="time", ylabel="loss", yscale="log", title="Theorem 2.2")
    axes.grid(alpha=0.3)
    legend(figure, axes)
