"""imp-lenet5: iterative magnitude pruning of LeNet-5 on real digits, by number of training images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsify_fx.api import apply
from sparsify_fx.lab.base import Check, Findings, experiment
from sparsify_fx.lab.statistics import Mean, mean_with_interval
from sparsify_fx.scheduler.scheduler import Scheduler
from sparsify_fx.tables.grids import Grid
from sparsify_fx.zoo.data import load_data
from sparsify_fx.zoo.models import build_model


@dataclass(frozen=True)
class Size:
    """How large the experiment is. samples: training images; steps: of each cycle, whatever the number of images."""

    samples: tuple[int, ...] = (500, 1000, 4000)
    seeds: int = 3
    prunings: int = 20
    steps: int = 200
    batch: int = 60
    rate: float = 1.2e-3


FULL = Size(samples=(250, 500, 1000, 2000, 4000), seeds=5, prunings=20, steps=2000)
Curves = dict[int, tuple[Tensor, Tensor]]
"""By number of training images: densities [cycles], test accuracies [seeds, cycles]."""


@dataclass(frozen=True)
class Digits:
    """Images and labels, to train on and to test with."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def some(self, count: int, generator: torch.Generator) -> Digits:
        """`count` training images at random, all test images."""
        chosen = torch.randperm(len(self.images), generator=generator)[:count]
        return Digits(
            self.images[chosen], self.labels[chosen], self.test_images, self.test_labels
        )


def load_digits(name: str) -> Digits:
    """All images of a data set with one channel of 28x28 pixels; DataError where it is not to be had."""
    data = load_data(name)
    parts = [
        map(torch.cat, zip(*part.epoch(500, train=False), strict=True))
        for part in (data.train, data.test)
    ]
    return Digits(*(tensor for part in parts for tensor in part))


def accuracies(
    size: Size, digits: Digits, seed: int
) -> tuple[list[float], list[float]]:
    """Density and test accuracy at the end of every cycle of one run, which keeps 0.8 of the weights each time."""
    torch.manual_seed(seed)
    model = build_model("lenet5", num_classes=10, in_channels=1, image_size=28)
    apply(model, method="imp", sparsity=1 - 0.8**size.prunings, seed=seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=size.rate)
    scheduler = Scheduler(
        model, optimizer, epochs=1, steps_per_epoch=size.steps, learning_rate="constant"
    )
    order = torch.Generator().manual_seed(seed)
    densities, found = [], []
    for _ in range(scheduler.steps):
        batch = torch.randint(len(digits.images), (size.batch,), generator=order)
        loss = F.cross_entropy(model(digits.images[batch]), digits.labels[batch])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        if scheduler.ends_run:
            densities.append(scheduler.density())
            found.append(accuracy(model, digits))
        scheduler.step()
    return densities, found


@torch.no_grad()
def accuracy(model: nn.Module, digits: Digits) -> float:
    """Share of the test images that are classified right."""
    return float(
        (model(digits.test_images).argmax(1) == digits.test_labels).double().mean()
    )


@experiment(
    "imp-lenet5",
    paper="[Zhang 2021], section 5.2, Fig. 7",
    claim="IMP of LeNet-5 on digits: pruning first raises the test accuracy, or leaves it, and too much of it lowers "
    "it; more training images give a higher accuracy.",
)
def imp_lenet5(full: bool, seed: int) -> Findings:
    """Fig. 7."""
    return measure(FULL if full else Size(), seed)


def measure(size: Size, seed: int) -> Findings:
    """The whole experiment at a given size."""
    digits, curves = load_digits("mnist5k"), {}
    for samples in size.samples:
        runs = []
        for run in range(seed, seed + size.seeds):
            some = digits.some(samples, torch.Generator().manual_seed(run))
            densities, found = accuracies(size, some, run)
            runs.append(found)
        curves[samples] = (
            torch.tensor(densities),
            torch.tensor(runs, dtype=torch.float64),
        )
    means = {
        samples: [mean_with_interval(column) for column in found.T]
        for samples, (_, found) in curves.items()
    }
    left = next(iter(curves.values()))[0].tolist()
    return Findings(
        grids=(
            Grid(
                "Fig. 7: test accuracy by the share of weights left",
                ("left", *(f"N = {samples}" for samples in curves)),
                tuple(
                    (
                        f"{left[row]:.3f}",
                        *(f"{m[row].mean:.4f}" for m in means.values()),
                    )
                    for row in range(len(left))
                ),
            ),
        ),
        checks=_checks(curves),
        figures={"imp-lenet5": lambda figure: draw(left, means, figure)},
        settings=asdict(size),
    )


def _checks(curves: Curves) -> tuple[Check, ...]:
    checks = []
    for samples, (left, found) in curves.items():
        mean = found.mean(0)
        best = int(mean.argmax())
        told = f"dense {float(mean[0]):.4f}, best {float(mean[best]):.4f} at {float(left[best]):.3f} left"
        checks.append(
            Check(
                f"N = {samples}: a pruned net is at least as good as the dense one",
                told,
                best > 0,
            )
        )
        told = f"{float(mean[-1]):.4f} at {float(left[-1]):.3f} left"
        checks.append(
            Check(
                f"N = {samples}: too much pruning lowers it",
                told,
                bool(mean[-1] < mean[0]),
            )
        )
    dense = [float(found.mean(0)[0]) for _, found in curves.values()]
    told = ", ".join(f"{value:.4f}" for value in dense)
    return (
        *checks,
        Check(
            "more images, higher accuracy of the dense net",
            told,
            dense == sorted(dense),
        ),
    )


def draw(left: list[float], means: dict[int, list[Mean]], figure: Any) -> None:
    """Fig. 7 of [Zhang 2021]: test accuracy by the share of weights left, a line for each number of images."""
    figure.set_size_inches(6, 4)
    axes = figure.subplots()
    shares = [100 * share for share in left]
    for samples, found in means.items():
        axes.plot(
            shares,
            [mean.mean for mean in found],
            "o-",
            markersize=4,
            label=f"N = {samples}",
        )
        if all(isfinite(mean.half) for mean in found):  # a single run has no interval
            low, high = (
                [mean.mean + sign * mean.half for mean in found] for sign in (-1, 1)
            )
            axes.fill_between(shares, low, high, alpha=0.15)
    axes.set(
        xlabel="weights left, %",
        ylabel="test accuracy",
        xscale="log",
        title="IMP of LeNet-5 on digits",
    )
    axes.invert_xaxis()
    axes.grid(alpha=0.3, which="both")
    axes.legend(loc="lower left")
