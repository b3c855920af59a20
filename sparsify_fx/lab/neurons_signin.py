"""neurons-signin: a teacher of three neurons, learned from good and bad signs, with and without Sign-In."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sparsify_fx.lab.base import Check, Findings, experiment
from sparsify_fx.lab.neurons import (
    Layer,
    bad_signs,
    draw_layer,
    draw_sizes,
    draw_teachers,
    good_signs,
    paired,
)
from sparsify_fx.lab.statistics import mean_with_interval
from sparsify_fx.parameterizations.product import Product
from sparsify_fx.tables.grids import Grid

RECOVERED = 1e-2
"""A run has recovered the teacher when its loss is below this share of the zero function's."""


@dataclass(frozen=True)
class Size:
    """How large the experiment is. pairs: half of the dense net's neurons; rate: of plain descent, for `steps` steps.

    Descent on the factors takes rate/(2β), at most `rate`; the dense net takes rate/10 and twice the steps.
    """

    runs: int = 200
    width: int = 2
    neurons: int = 3
    pairs: int = 10
    samples: int = 100
    rate: float = 0.1
    small_rate: float = 0.01
    steps: int = 4000
    betas: tuple[float, ...] = (2.0, 1.0, 0.5)


FULL = Size(runs=1000, steps=20_000)
STARTS = ("balanced", "independent")


@dataclass(frozen=True)
class Course:
    """One way to train: the problem, its teachers, and the parameters along the way, [points, runs, k·(1 + d)]."""

    problem: Layer
    teacher: Tensor
    path: Tensor

    def recovered(self) -> Tensor:
        """Which runs found the teacher, [runs]."""
        zero = self.problem.labels.square().mean(1) / 2
        return self.problem.loss(self.path[-1]) < RECOVERED * zero

    def flips(self) -> float:
        """Mean number of a_i whose sign at the end is not that of the start."""
        outer = self.path[:, :, : self.problem.neurons]
        return float((outer[0] * outer[-1] < 0).double().sum(1).mean())


def descend(
    problem: Layer,
    start: Tensor,
    *,
    rate: float,
    steps: int,
    beta: float | None = None,
    points: int = 200,
) -> Tensor:
    """Gradient descent on θ, or with `beta` on m and w of θ = m ⊙ w with m² − w² = β; [points + 1, runs, k·(1 + d)]."""
    first, second = start, torch.ones_like(start)
    if beta is not None:
        factors = Product(beta).split(start)
        first, second = (factors[name] for name in Product.factors)
    kept, every = [start], max(1, steps // points)
    for index in range(steps):
        gradient = rate * problem.gradient(first * second)
        if beta is None:
            first = first - gradient
        else:
            first, second = first - gradient * second, second - gradient * first
        if (index + 1) % every == 0 or index + 1 == steps:
            kept.append(first * second)
    return torch.stack(kept)


def courses(size: Size, start: str, seed: int) -> dict[str, Course]:
    """Every way to train from one of STARTS: |a_i| = |w_i|, or a_i of its own, |a_i| ~ |N(0, 1/d)|."""
    generator = torch.Generator().manual_seed(seed)
    teacher = draw_teachers(size.runs, size.neurons, size.width, generator)
    few = draw_layer(teacher, size.neurons, size.width, size.samples, generator)
    many = Layer(few.inputs, few.labels, 2 * size.pairs)
    drawn = draw_sizes(
        size.runs, size.neurons, size.width, generator, balanced=start == "balanced"
    )
    dense = paired(
        *draw_sizes(
            size.runs, size.pairs, size.width, generator, balanced=start == "balanced"
        )
    )
    good, bad = good_signs(*drawn, teacher), bad_signs(*drawn)
    shrink = round(size.rate / size.small_rate)
    paths = {
        "good signs": descend(few, good, rate=size.rate, steps=size.steps),
        "bad signs": descend(few, bad, rate=size.rate, steps=size.steps),
        "bad signs, small steps": descend(
            few, bad, rate=size.small_rate, steps=shrink * size.steps // 2
        ),
    }
    for beta in size.betas:
        rate = size.rate / max(2 * beta, 1)
        paths[signin_name(beta)] = descend(
            few, bad, rate=rate, steps=size.steps, beta=beta
        )
    wide = Course(
        many, teacher, descend(many, dense, rate=size.rate / 10, steps=2 * size.steps)
    )
    return {
        "dense": wide,
        **{name: Course(few, teacher, path) for name, path in paths.items()},
    }


def signin_name(beta: float) -> str:
    """How the tables call descent on m ⊙ w from bad signs."""
    return f"bad signs, Sign-In, β = {beta:g}"


@experiment(
    "neurons-signin",
    paper="[Gadhikar 2025], section 5 (multiple neurons), appendix C, Figs. 4 and 6",
    claim="Three neurons learn a teacher of three from good signs and fail from bad ones (a > 0 for all); a dense net "
    "learns it; Sign-In learns it from bad signs more often.",
)
def neurons_signin(full: bool, seed: int) -> Findings:
    """Figs. 4 and 6, and how often each panel of them comes out."""
    return measure(FULL if full else Size(), seed)


def measure(size: Size, seed: int) -> Findings:
    """The whole experiment at a given size."""
    found = {start: courses(size, start, seed) for start in STARTS}
    shares = {
        (start, name): float(course.recovered().double().mean())
        for start, some in found.items()
        for name, course in some.items()
    }
    names = tuple(found["balanced"])
    flips = {
        (start, name): course.flips()
        for start, some in found.items()
        for name, course in some.items()
    }
    shown = example(found["balanced"], signin_name(size.betas[0]))
    return Findings(
        grids=(
            Grid(
                "runs that recover the teacher (and sign changes of a in a run), by start",
                (
                    "",
                    *(
                        f"{start}: {what}"
                        for start in STARTS
                        for what in ("recovered", "changes of a")
                    ),
                ),
                tuple(
                    (
                        name,
                        *(table[s, name] for s in STARTS for table in (shares, flips)),
                    )
                    for name in names
                ),
            ),
        ),
        checks=_checks(size, found["balanced"]),
        figures={
            "neurons-signin": lambda figure: draw(
                found["balanced"], signin_name(size.betas[0]), shown, figure
            )
        },
        settings=asdict(size),
        notes=(
            "The figure shows, of the runs that fail from bad signs, the one that Sign-In fits best; the table says "
            "how common that is. With a_i² = |w_i|² the exact flow keeps the sign of every a_i, so that it never "
            "recovers from bad signs; finite steps can jump over a_i = 0.",
        ),
    )


def example(found: dict[str, Course], signin: str) -> int:
    """Of the runs that fail from bad signs, the one with the smallest loss with Sign-In."""
    course = found[signin]
    loss = course.problem.loss(course.path[-1])
    return int(torch.where(found["bad signs"].recovered(), torch.inf, loss).argmin())


def _checks(size: Size, found: dict[str, Course]) -> tuple[Check, ...]:
    shares = {
        name: float(course.recovered().double().mean())
        for name, course in found.items()
    }
    checks = [
        Check(
            f"{name}: at least 0.95 of runs recover",
            f"{shares[name]:.3f}",
            shares[name] >= 0.95,
        )
        for name in ("dense", "good signs")
    ]
    plain = found["bad signs"].recovered()
    for beta in size.betas:
        name = signin_name(beta)
        gain = mean_with_interval(found[name].recovered().double() - plain.double())
        told = f"{shares[name]:.3f} | {shares['bad signs']:.3f}, more by {gain}"
        claim = f"β = {beta:g}: Sign-In recovers from bad signs more often than plain descent, run by run"
        checks.append(Check(claim, told, gain.mean > gain.half))
        freed = float(found[name].recovered()[~plain].double().mean())
        claim = f"β = {beta:g}: Sign-In resolves more than half of the failures"
        checks.append(Check(claim, f"{freed:.3f}", freed > 0.5))
    return tuple(checks)


def draw(found: dict[str, Course], signin: str, run: int, figure: Any) -> None:
    """Figs. 4 and 6 of [Gadhikar 2025]: paths of |a_i| w_i in one run; arrows: the teacher's ã_i; red where a < 0."""
    figure.set_size_inches(9, 9)
    panels = ("dense", "good signs", "bad signs", signin)
    for axes, name in zip(
        figure.subplots(2, 2, sharex=True, sharey=True).flat, panels, strict=True
    ):
        course = found[name]
        outer, inner = course.problem.split(course.path[:, run])
        point = outer.abs()[:, :, None] * inner
        for index in range(course.problem.neurons):
            colour = _colour(outer[-1, index])
            axes.plot(point[:, index, 0], point[:, index, 1], color=colour, alpha=0.6)
            axes.plot(*point[-1, index].tolist(), "o", color=colour)
        goals, arrows = found["good signs"].problem.split(course.teacher[run : run + 1])
        for goal, arrow in zip(goals[0], arrows[0], strict=True):
            tip = {"color": _colour(goal), "arrowstyle": "->", "linewidth": 2}
            axes.annotate("", arrow.tolist(), (0, 0), arrowprops=tip)
        axes.set(title=name, xlabel="|a| w₁", ylabel="|a| w₂", aspect="equal")
        axes.grid(alpha=0.3)


def _colour(outer: Tensor) -> str:
    return "tab:red" if outer < 0 else "tab:blue"
