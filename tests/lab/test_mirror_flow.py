"""Optimality, linear rate and Lie brackets of [Jacobs 2025], against independent numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from matplotlib.figure import Figure

from sparsify_fx.errors import LabError
from sparsify_fx.lab.diagonal.bregman import potential
from sparsify_fx.lab.diagonal.problem import draw_regression
from sparsify_fx.lab.mirror_flow import Size, measure
from sparsify_fx.lab.mirror_flow.brackets import (
    elementwise,
    neuronwise,
    order_matters,
    seen_brackets,
)
from sparsify_fx.lab.mirror_flow.optimum import minimize, off_span, potential_after

SMALL = Size(seeds=2, samples=8, width=20, nonzeros=2, totals=(0.3,), time=60.0)


def test_newton_finds_the_smallest_potential_among_the_solutions() -> None:
    problem = draw_regression(2, 6, 12, 2, 0)
    found = potential_after(problem, 0.3, 4.0)
    best = minimize(problem, found)
    labels = (problem.inputs @ problem.truth[..., None])[..., 0]
    assert torch.allclose((problem.inputs @ best[..., None])[..., 0], labels)
    assert off_span(problem, found.slope(best)) < 1e-9
    assert torch.allclose(found.inverse(found.slope(best)), best, atol=1e-9)

    # Any other solution has a larger potential: steps along the kernel of Z.
    _, _, rows = torch.linalg.svd(problem.inputs)
    steps = torch.randn(2, 6, 1, generator=torch.Generator().manual_seed(0)).double()
    other = best + 0.1 * (rows[:, 6:].mT @ steps)[..., 0]

    def total(point: torch.Tensor) -> torch.Tensor:
        return potential(point, found.up, found.down, found.width).sum(1)

    assert (total(other) > total(best)).all()
    with pytest.raises(LabError, match="did not converge"):
        minimize(problem, found, steps=1)


def test_brackets_of_neurons_are_those_of_lemma_d_1() -> None:
    point = torch.tensor([0.5, 1.0, -2.0, 3.0]).double()
    seen = seen_brackets(neuronwise, point)
    m, w = point[0], point[1:]
    # (.., m w_j at i, .., −m w_i at j, ..) up to the sign of the bracket.
    expected = torch.zeros(3)
    expected[0], expected[1] = m * w[1], -m * w[0]
    signed = seen[0, 1] * torch.sign(seen[0, 1, 0] * expected[0])
    assert torch.allclose(signed, expected.double())
    assert seen_brackets(elementwise, point).abs().max() == 0
    assert order_matters(elementwise, point) < 1e-12 < order_matters(neuronwise, point)


@pytest.mark.slow
def test_the_flow_ends_at_the_optimum_with_exponent_4_alone() -> None:
    findings = measure(SMALL, 0)
    ((_, kkt, distance, printed, printed_distance),) = findings.grids[0].rows
    assert kkt < 1e-9
    assert distance < 1e-3 < 0.05 < min(printed, printed_distance)
    ((_, rate, bound, printed_bound),) = findings.grids[1].rows
    assert rate >= bound
    assert printed_bound > bound
    figure = Figure()
    findings.figures["mirror-flow"](figure)
    assert len(figure.axes[0].lines) == 1
    assert replace(SMALL, seeds=1) != SMALL
