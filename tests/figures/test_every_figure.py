"""Every figure of the analyses and of the laboratory at the width of a column, from made-up numbers."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from sparsify_fx.analysis.channels import Channels
from sparsify_fx.analysis.connectivity import Line
from sparsify_fx.analysis.curvature import Eigenvalue, Trace
from sparsify_fx.analysis.gradients import GradientNorm
from sparsify_fx.analysis.overlap import Overlap
from sparsify_fx.analysis.pruning import PruneCurve
from sparsify_fx.analysis.reports import (
    bn_scales,
    connectivity,
    dead_channels,
    gradient_flow,
    hessian,
    overlap,
    prune_curve,
    sharpness_curve,
    sign_curve,
    sign_cycles,
    signs,
    sparsity,
)
from sparsify_fx.analysis.signs import SignFlips
from sparsify_fx.analysis.sparsity import LayerSparsity
from sparsify_fx.lab.common.statistics import Mean
from sparsify_fx.lab.diagonal.figures import draw_potential
from sparsify_fx.lab.imp_lenet5.experiment import draw as draw_imp
from sparsify_fx.lab.neuron_signin.experiment import draw as draw_paths
from sparsify_fx.lab.sample_complexity.figures import draw as draw_samples
from sparsify_fx.lab.sample_complexity.figures import draw_transition
from sparsify_fx.lab.sample_complexity.pruning import Cycle, Pruned
from sparsify_fx.lab.sample_complexity.rates import METHODS, Speed
from sparsify_fx.lab.sample_complexity.runs import Size
from tests.figures.common import check_legible, drawn

RUNS = ("lrr", "imp", "random-0123456789", "random-abcdefabcd")
LAYERS = ("conv1", "conv2", "layer1.0.conv1", "layer1.0.downsample.0", "fc1", "fc2")
MEAN = Mean(0.5, 0.1)


def by_layer(value: Any) -> dict[str, dict[str, Any]]:
    """The same for each layer of each run."""
    return {run: dict.fromkeys(LAYERS, value) for run in RUNS}


def samples(figure: Any) -> None:
    """The six panels of `sample-complexity`."""
    size = Size()
    rates = {
        (m, kept): Mean(0.9 + kept / 1e4, 0.01) for m in METHODS for kept in (5, 10, 20)
    }
    paths = {
        (m, kept): torch.tensor([1.0, 0.1, 0.01]) for m in METHODS for kept in (5, 20)
    }
    noise = {}
    for level in size.noise_levels:
        noise |= {(level, k): Mean(k * level, level) for k in size.noise_ranks}
    some = {5: MEAN, 10: Mean(0.4, 0.1), 20: Mean(0.3, 0.1)}
    halves = {5: 100.0, 10: 190.0, 20: 420.0}
    errors = torch.tensor([0.4, 0.5, 0.6])
    cycles = (Cycle(1.0, errors, errors), Cycle(0.1, errors / 2, errors))
    pruned = {}
    for start in size.imp_starts:
        pruned |= {(start, count): Pruned(errors, cycles) for count in size.imp_samples}
    draw_samples(figure, size, some, Speed(rates, rates, paths), halves, noise, pruned)


PATHS = {
    name: torch.rand(5, 8, 3) for name in ("sparse", "overparam", "sign-in", "both")
}
TOP, SUM, NORM = Eigenvalue(2.0, 0.1, 9, True), Trace(9.0, 1.0, 9), GradientNorm(1.0, 9)
CYCLES = sign_cycles.Cycles(
    (0, 1), (0.0, 0.2), (1, 2), (9, 8), (0.7, 0.2, 0.1), (0.7, 0.3)
)
FLIPS = dict.fromkeys(signs.STAGES, dict.fromkeys(LAYERS, SignFlips(1, 4)))
WHEN = dict.fromkeys(("init", "end"), dict.fromkeys(LAYERS, NORM))
PAIR = dict.fromkeys(LAYERS, Overlap(100, 10, 10, 3, 1.0))
SPACES = dict.fromkeys(
    ("lrr, θ", "lrr, factors", "imp, θ", "imp, factors"), (9, TOP, SUM)
)
COURSE = [(0, 0.0, 0.5), (1, 0.2, 0.3), (9, 0.5, 0.0)]
LINE = Line((0.0, 0.5, 1.0), (1.0, 2.0, 1.0), (0.1, 0.2, 0.1))
CURVE = PruneCurve((0.0, 0.9, 0.99), (0.95, 0.94, 0.5))
MEANS = {500: [MEAN] * 3, 4000: [MEAN] * 3}
FIGURES: dict[str, Any] = {
    "signs": partial(signs.draw, dict.fromkeys(RUNS, FLIPS)),
    "sign-curve": partial(sign_curve.draw, dict.fromkeys(RUNS, COURSE)),
    "sign-cycles": partial(sign_cycles.draw, dict.fromkeys(RUNS, CYCLES)),
    "layers": partial(sparsity.draw, by_layer(LayerSparsity(100, 10))),
    "overlap": partial(overlap.draw, dict.fromkeys(("lrr & imp", "lrr & gmp"), PAIR)),
    "bn-scales": partial(bn_scales.draw, by_layer(torch.linspace(-1, 1, 9))),
    "dead-channels": partial(dead_channels.draw, by_layer(Channels(8, 1, 2, 1, 3))),
    "gradient-flow": partial(gradient_flow.draw, dict.fromkeys(RUNS, WHEN)),
    "hessian": partial(hessian.draw, SPACES),
    "sharpness-curve": partial(
        sharpness_curve.draw, {run: {1: TOP, 2: TOP} for run in RUNS}
    ),
    "connectivity": partial(connectivity.draw, {"lrr & imp": LINE}),
    "prune-curve": partial(prune_curve.draw, dict.fromkeys(RUNS, CURVE)),
    "imp-lenet5": partial(draw_imp, [1.0, 0.5, 0.1], MEANS, title="Fig. 7, ours"),
    "diagonal-potential": draw_potential,
    "neuron-signin": partial(draw_paths, PATHS),
    "sample-complexity": samples,
    "sample-complexity-transition": lambda figure: draw_transition(
        figure, {5: ({10: 0.1, 20: 0.9}, 15.0)}
    ),
}


@pytest.mark.cross_section(
    "signs",
    "sign-cycles",
    "overlap",
    "dead-channels",
    "hessian",
    "connectivity",
    "diagonal-potential",
    "sample-complexity",
)
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_legible_in_a_column(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_legible(drawn(FIGURES[name], "8.5", monkeypatch))
