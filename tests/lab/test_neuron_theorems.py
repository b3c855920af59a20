"""One neuron under other parameterizations, β by layer in the library, and finite samples."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from matplotlib.figure import Figure

from sparsify_fx.lab.common.neuron import balanced_start
from sparsify_fx.lab.neuron_theorems import Size, measure
from sparsify_fx.lab.neuron_theorems.experiment import found
from sparsify_fx.lab.neuron_theorems.parameterized import (
    REPARAMETERIZATIONS,
    by_layer,
    follow,
)
from sparsify_fx.lab.neuron_theorems.samples import finite_samples

SMALL = Size(runs=4, steps=600, finite_runs=40)


@pytest.mark.parametrize("name", REPARAMETERIZATIONS)
def test_a_parameterization_starts_where_it_is_told(name: str) -> None:
    theta = torch.tensor([-1.3, -0.2, 0.4, 2.0]).double()
    how = REPARAMETERIZATIONS[name]
    tensors = how.split(theta)
    assert tensors.shape == (4, how.factors)
    assert torch.allclose(how.value(tensors), theta)


@pytest.mark.slow
@pytest.mark.parametrize("name", REPARAMETERIZATIONS)
def test_from_negative_w_none_reaches_the_teacher_and_from_the_right_signs_all_do(
    name: str,
) -> None:
    how = REPARAMETERIZATIONS[name]
    ends = {}
    for first in (1, -1):
        generator = torch.Generator().manual_seed(0)
        start = balanced_start(6, 1, generator, outer=1, first=first)
        ends[first] = follow(how, start, rate=0.02, steps=1500)
    assert found(ends[1]) == 1
    assert found(ends[-1]) == 0
    assert float(ends[-1][:, 1].max()) <= 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("betas", "share"), [((2.0, 1.0), 1), ((1.0, 1.0), 0), ((1.0, 2.0), 0)]
)
def test_a_larger_beta_of_the_outer_layer_flips_its_sign_in_the_library(
    betas: tuple[float, float], share: float
) -> None:
    start = balanced_start(6, 1, torch.Generator().manual_seed(0), outer=-1, first=1)
    assert found(by_layer(start, betas, rate=0.02, steps=1500)) == share


@pytest.mark.slow
def test_finite_samples_follow_the_closed_form_at_twice_the_variance() -> None:
    finite, ratio, plain = finite_samples(200, 50, 0.3, 5.0, 0)
    assert max(one.off for one in finite.values()) < 1e-6
    assert finite[1, 1].alive == 1
    assert finite[-1, 1].alive == 0
    assert finite[1, -1].alive == pytest.approx(0.5, abs=0.15)
    assert ratio / plain == pytest.approx(2, abs=0.7)


@pytest.mark.slow
def test_the_findings_are_told_and_drawn() -> None:
    findings = measure(replace(SMALL, betas=((2.0, 1.0),)), 0)
    assert len(findings.checks) == 5 + 1 + 3
    figure = Figure()
    findings.figures["neuron-theorems"](figure)
    assert len(figure.axes[0].lines) == 5
