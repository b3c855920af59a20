"""How `neurons-signin` trains: from good and bad signs, dense, and on Sign-In's factors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify_fx.lab.neurons_signin.neurons import (
    Layer,
    bad_signs,
    draw_layer,
    draw_sizes,
    draw_teachers,
    good_signs,
    paired,
)
from sparsify_fx.parameterizations.product import Product

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
    # Plain descent has θ in `first` and ones in `second`: the product, and so each step, is bit by bit θ.
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
    # 1. Teachers, data and starts. All are drawn before any training, in this order, so that every way
    # to train meets the same ones.
    generator = torch.Generator().manual_seed(seed)
    teacher = draw_teachers(size.runs, size.neurons, size.width, generator)
    few = draw_layer(teacher, size.neurons, size.width, size.samples, generator)
    many = Layer(few.inputs, few.labels, 2 * size.pairs)
    balanced = start == "balanced"
    drawn = draw_sizes(
        size.runs, size.neurons, size.width, generator, balanced=balanced
    )
    wide = draw_sizes(size.runs, size.pairs, size.width, generator, balanced=balanced)
    good, bad, dense = good_signs(*drawn, teacher), bad_signs(*drawn), paired(*wide)

    # 2. Plain descent. Small steps show how many recoveries from bad signs are overshooting; they cover
    # half of the time, since all of it would be ten times the work.
    shrink = round(size.rate / size.small_rate)
    paths = {
        "good signs": descend(few, good, rate=size.rate, steps=size.steps),
        "bad signs": descend(few, bad, rate=size.rate, steps=size.steps),
        "bad signs, small steps": descend(
            few, bad, rate=size.small_rate, steps=shrink * size.steps // 2
        ),
    }

    # 3. Sign-In. A step on the factors is m² + w² = sqrt(4θ² + β²) times as long as a plain one: at
    # rate/(2β) it is no longer than that up to θ = 0.87β.
    for beta in size.betas:
        rate = size.rate / max(2 * beta, 1)
        paths[signin_name(beta)] = descend(
            few, bad, rate=rate, steps=size.steps, beta=beta
        )

    # 4. The dense net has about seven times the neurons, whose steps add up in the output.
    path = descend(many, dense, rate=size.rate / 10, steps=2 * size.steps)
    found = {"dense": Course(many, teacher, path)}
    return found | {name: Course(few, teacher, path) for name, path in paths.items()}


def signin_name(beta: float) -> str:
    """How the tables call descent on m ⊙ w from bad signs."""
    return f"bad signs, Sign-In, β = {beta:g}"


def example(found: dict[str, Course], signin: str) -> int:
    """Of the runs that fail from bad signs, the one with the smallest loss with Sign-In."""
    course = found[signin]
    loss = course.problem.loss(course.path[-1])
    return int(torch.where(found["bad signs"].recovered(), torch.inf, loss).argmin())
