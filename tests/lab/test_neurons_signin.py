"""Several neurons: gradients, starts, and Figs. 4 and 6 of [Gadhikar 2025] at reduced size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from matplotlib.figure import Figure

from sparsify_fx.lab.neuron_signin.descent import descend_factors
from sparsify_fx.lab.neurons_signin import (
    Size,
    courses,
    descend,
    example,
    measure,
    signin_name,
)
from sparsify_fx.lab.neurons_signin.neurons import (
    Layer,
    bad_signs,
    draw_layer,
    draw_sizes,
    draw_teachers,
    good_signs,
    paired,
)

SMALL = Size(runs=40, steps=1500, samples=60, small_rate=0.05, betas=(1.0,))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(runs: int = 6) -> tuple[torch.Tensor, Layer, torch.Tensor, torch.Tensor]:
    generator = seeded()
    teacher = draw_teachers(runs, 3, 2, generator)
    return (
        teacher,
        draw_layer(teacher, 3, 2, 50, generator),
        *draw_sizes(runs, 3, 2, generator, balanced=True),
    )


def test_the_gradient_is_that_of_the_loss_and_the_teacher_has_none() -> None:
    teacher, layer, sizes, inner = drawn()
    start = bad_signs(sizes, inner).requires_grad_()
    (expected,) = torch.autograd.grad(layer.loss(start).sum(), start)
    assert torch.allclose(layer.gradient(start.detach()), expected, atol=1e-12)
    assert layer.loss(teacher).max() == 0
    assert layer.gradient(teacher).abs().max() == 0


def test_the_starts_are_what_they_say() -> None:
    teacher, layer, sizes, inner = drawn(50)
    assert (teacher[:, :3].abs() == 1).all()
    assert (teacher[:, :3] < 0).any(1).all()
    assert torch.allclose(
        teacher[:, 3:].reshape(50, 3, 2).norm(dim=2), torch.ones(50, 3).double()
    )
    assert torch.allclose(sizes, inner.norm(dim=2))
    good, bad = good_signs(sizes, inner, teacher), bad_signs(sizes, inner)
    assert torch.equal(good.sign(), teacher.sign())
    assert torch.allclose(good.abs(), bad.abs())
    assert (bad[:, :3] > 0).all()
    double = Layer(layer.inputs, layer.labels, 6)
    assert double.outputs(paired(sizes, inner)).abs().max() < 1e-12


def test_descent_on_factors_is_that_of_the_single_neuron_s_lab() -> None:
    _, layer, sizes, inner = drawn()
    start = bad_signs(sizes, inner)
    path = descend(layer, start, rate=0.05, steps=40, beta=2.0, points=4)
    assert path.shape == (5, 6, 9)
    assert torch.allclose(
        path[-1],
        descend_factors(layer, start, beta=(2.0, 2.0), rate=0.05, steps=40),
        atol=1e-12,
    )
    plain = descend(layer, start, rate=0.05, steps=1)
    assert torch.allclose(plain[-1], start - 0.05 * layer.gradient(start))


@pytest.mark.slow
def test_good_signs_and_a_dense_net_succeed_and_bad_signs_fail_more_often_than_with_sign_in() -> (
    None
):
    found = courses(SMALL, "balanced", 0)
    share = {
        name: float(course.recovered().double().mean())
        for name, course in found.items()
    }
    assert share["good signs"] >= 0.85
    assert share["dense"] >= 0.85
    assert share["bad signs"] <= 0.45
    assert share[signin_name(1.0)] >= share["bad signs"] + 0.1
    assert found["good signs"].flips() == 0
    run = example(found, signin_name(1.0))
    assert not found["bad signs"].recovered()[run]
    assert found[signin_name(1.0)].recovered()[run]


def test_the_findings_are_told_and_drawn() -> None:
    findings = measure(replace(SMALL, runs=6, steps=60), 0)
    (grid,) = findings.grids
    assert [row[0] for row in grid.rows] == [
        "dense",
        "good signs",
        "bad signs",
        "bad signs, small steps",
        signin_name(1.0),
    ]
    assert len(findings.checks) == 4
    figure = Figure()
    findings.figures["neurons-signin"](figure)
    assert len(figure.axes) == 4


def test_small_steps_do_not_cross_zero() -> None:
    """With |a| = |w| the flow keeps every sign of a; a step of 0.001 does so for as long as this test looks."""
    _, layer, sizes, inner = drawn()
    path = descend(layer, bad_signs(sizes, inner), rate=1e-3, steps=2000)
    outer, rest = layer.split(path[-1])
    assert (outer > 0).all()
    assert (outer - rest.norm(dim=2)).abs().max() < 0.01


@pytest.mark.parametrize("start", ["balanced", "independent"])
def test_the_same_seed_gives_the_same_numbers(start: str) -> None:
    size = replace(SMALL, runs=3, steps=20)
    first, second = (courses(size, start, 1) for _ in range(2))
    assert all(torch.equal(first[name].path, second[name].path) for name in first)
