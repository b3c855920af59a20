"""imp-lenet5: iterative magnitude pruning of LeNet-5 on real digits, by number of training images."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from sparsify_fx.figures import legend, panels, series
from sparsify_fx.lab.base import Check, Findings, experiment
from sparsify_fx.lab.common.statistics import Mean, mean_with_interval
from sparsify_fx.lab.imp_lenet5.protocols import OURS, Protocol
from sparsify_fx.lab.imp_lenet5.runs import FULL, Size, accuracies, load_digits
from sparsify_fx.tables.fitting import Draw, Grid

Curves = dict[int, tuple[Tensor, Tensor]]
"""By number of training images: densities [cycles], test accuracies [seeds, cycles]."""


@experiment(
    "imp-lenet5",
    paper="[Zhang 2021], section 5.2, Fig. 7",
    claim="IMP of LeNet-5 on digits: pruning first raises the test accuracy, or leaves it, and too much of it lowers "
    "it; more training images give a higher accuracy.",
)
def imp_lenet5(full: bool, seed: int) -> Findings:
    """Fig. 7 of [Zhang 2021], on 4,000 digits instead of MNIST."""
    return measure(FULL if full else Size(), seed)


def measure(size: Size, seed: int) -> Findings:
    """The whole experiment at a given size."""
    grids: list[Grid] = []
    checks: list[Check] = []
    figures: dict[str, Draw] = {}
    for protocol in (OURS, *size.codes):
        curves = _curves(size, protocol, seed)
        means = {
            samples: [mean_with_interval(column) for column in found.T]
            for samples, (_, found) in curves.items()
        }
        # Every run is pruned to the same densities: one column of them is enough.
        left = next(iter(curves.values()))[0].tolist()
        grids.append(_grid(protocol, left, means))
        checks += _checks(protocol, curves)
        stem = "imp-lenet5"
        if protocol is not OURS:
            stem += "-" + protocol.name.replace(",", "").replace(" ", "-")
        figures[stem] = partial(draw, left, means, title=f"Fig. 7, {protocol.name}")
    return Findings(
        grids=tuple(grids),
        checks=tuple(checks),
        figures=figures,
        settings=asdict(size),
        notes=_NOTES,
    )


_NOTES = (
    "The paper has MNIST with 10,000 to 40,000 images; here there are the 4,000 digits at hand, with --full too.",
    "'the code' is what the paper names for Fig. 7, with its net and 100 epochs under --full; all of it was read "
    "there. It freezes the gradients of negative weights (weight < 1e-6, without an absolute value), which decay and "
    "Adam then bring to zero; 'the code, all gradients' does not.",
    "The code's accuracies are of the best epoch by the test set itself: they are no estimates of a new test's.",
)


def _curves(size: Size, protocol: Protocol, seed: int) -> Curves:
    digits, curves = load_digits("mnist5k"), {}
    ours = protocol.epochs is None
    seeds = size.seeds if ours else size.code_seeds
    for samples in size.samples if ours else size.code_samples:
        runs = []
        for run in range(seed, seed + seeds):
            # The seed gives the images too: the interval is that of another draw, not of another start alone.
            some = digits.some(samples, torch.Generator().manual_seed(run))
            densities, found = accuracies(size, some, run, protocol)
            runs.append(found)
        accuracy = torch.tensor(runs, dtype=torch.float64)
        curves[samples] = (torch.tensor(densities), accuracy)
    return curves


def _grid(protocol: Protocol, left: list[float], means: dict[int, list[Mean]]) -> Grid:
    rows = []
    for index, share in enumerate(left):
        cells = [f"{of_samples[index].mean:.4f}" for of_samples in means.values()]
        rows.append((f"{share:.3f}", *cells))
    return Grid(
        f"Fig. 7, {protocol.name}: test accuracy by the share of weights left",
        ("left", *(f"N = {samples}" for samples in means)),
        tuple(rows),
    )


def _checks(protocol: Protocol, curves: Curves) -> tuple[Check, ...]:
    checks = []
    for samples, (left, found) in curves.items():
        # The mean over seeds is judged and not each run: single runs cross by chance.
        mean = found.mean(0)
        best = int(mean.argmax())
        told = f"dense {float(mean[0]):.4f}, best {float(mean[best]):.4f} at {float(left[best]):.3f} left"
        claim = f"{protocol.name}, N = {samples}: a pruned net is at least as good as the dense one"
        checks.append(Check(claim, told, best > 0))
        told = f"{float(mean[-1]):.4f} at {float(left[-1]):.3f} left"
        claim = f"{protocol.name}, N = {samples}: too much pruning lowers it"
        checks.append(Check(claim, told, bool(mean[-1] < mean[0])))
    dense = [float(found.mean(0)[0]) for _, found in curves.values()]
    told = ", ".join(f"{value:.4f}" for value in dense)
    claim = f"{protocol.name}: more images, higher accuracy of the dense net"
    return (*checks, Check(claim, told, dense == sorted(dense)))


def draw(
    left: list[float], means: dict[int, list[Mean]], figure: Any, *, title: str
) -> None:
    """Fig. 7 of [Zhang 2021]: test accuracy by the share of weights left, a line for each number of images."""
    (axes,) = panels(figure)
    shares = [100 * share for share in left]
    for index, (samples, found) in enumerate(means.items()):
        style = series(index)
        accuracies = [mean.mean for mean in found]
        axes.plot(shares, accuracies, label=f"N = {samples}", **style)
        # A single run has no interval.
        if all(isfinite(mean.half) for mean in found):
            low = [mean.mean - mean.half for mean in found]
            high = [mean.mean + mean.half for mean in found]
            band = {"color": style["color"], "alpha": 0.15, "linewidth": 0}
            # Named once: the bands differ in color alone.
            name = "" if index else "95 % interval"
            axes.fill_between(shares, low, high, label=name, **band)
    axes.set(
        xlabel="weights left, %",
        ylabel="test accuracy",
        xscale="log",
        title=title,
    )
    # Pruning goes from left to right, as in the paper.
    axes.invert_xaxis()
    axes.grid(alpha=0.3, which="both")
    legend(figure, axes)
