"""Teacher and student with masks: Algorithm 1, the tensor initialization, and [Zhang 2021]'s laws at small size."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from matplotlib.figure import Figure

from sparsify_fx.lab.common.statistics import fit_line
from sparsify_fx.lab.sample_complexity import measure
from sparsify_fx.lab.sample_complexity.geometry import hessian_bounds, samples_needed
from sparsify_fx.lab.sample_complexity.pruning import pruned_errors, pruned_once, recall
from sparsify_fx.lab.sample_complexity.rates import (
    asymptotic_rate,
    courses,
    hessian_eigenvalues,
    last_rate,
    rates,
)
from sparsify_fx.lab.sample_complexity.runs import (
    Size,
    half_point,
    noisy_errors,
    problem,
    radii,
    transitions,
)
from sparsify_fx.lab.sample_complexity.teacher import (
    Dense,
    Masked,
    accelerated,
    draw_masked,
    draw_masks,
    draw_teacher,
    perturbed,
    relative_error,
)
from sparsify_fx.lab.sample_complexity.tensor_start import (
    MomentSize,
    directions,
    low_moments,
    start_qualities,
)

pytestmark = pytest.mark.slow

SMALL = Size(
    neurons=3,
    rate=3.0,
    radius_runs=6,
    radius_width=30,
    radius_samples=120,
    radius_ranks=(16, 20, 24),
    radius_halvings=5,
    rate_runs=3,
    rate_width=60,
    rate_samples=500,
    rate_ranks=(5, 10, 20),
    slow_rate=0.3,
    rate_steps=4000,
    sample_runs=10,
    sample_width=40,
    sample_ranks=(6, 10, 16),
    noise_runs=4,
    noise_neurons=3,
    noise_width=60,
    noise_samples=400,
    noise_ranks=(4, 8, 16),
    noise_levels=(0.01, 0.02),
    imp_runs=3,
    imp_width=30,
    imp_kept=6,
    imp_samples=(400,),
    imp_cycles=11,
    steps=600,
    moments=MomentSize(runs=2, samples=(20_000,), chunk=10_000, width=100, kept=4),
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def line_r2(found: dict[int, float], power: float) -> float:
    ranks = torch.tensor(list(found), dtype=torch.float64) ** power
    return fit_line(ranks, torch.tensor(list(found.values()), dtype=torch.float64)).r2


def test_masks_keep_that_many_different_inputs_and_each_neuron_sees_its_own() -> None:
    masks = draw_masks(3, 4, 10, 6, seeded())
    assert all(len(set(row.tolist())) == 6 for run in masks for row in run)
    assert (masks.diff(dim=-1) > 0).all()
    data = draw_masked(draw_teacher(3, 4, 6, seeded()), masks, 10, 50, seeded(1))
    for run in range(3):
        for one in range(4):
            for other in range(4):
                shared = set(masks[run, one].tolist()) & set(masks[run, other].tolist())
                for index in shared:
                    left = data.inputs[
                        run, one, :, masks[run, one].tolist().index(index)
                    ]
                    assert torch.equal(
                        left,
                        data.inputs[
                            run, other, :, masks[run, other].tolist().index(index)
                        ],
                    )


def test_the_gradient_is_that_of_the_risk_and_vanishes_at_the_teacher() -> None:
    data, teacher, generator = problem(3, 4, 12, 5, 40, 0)
    data, teacher = Masked(data.inputs.double(), data.labels.double()), teacher.double()
    start = perturbed(teacher.float(), 0.5, generator).double().requires_grad_()
    assert torch.allclose(
        relative_error(start, teacher), torch.full((3,), 0.5).double(), atol=1e-5
    )
    risk = (data.outputs(start) - data.labels).square().mean(1).sum() / 2
    (expected,) = torch.autograd.grad(risk, start)
    assert torch.allclose(data.gradient(start.detach()), expected, atol=1e-10)
    assert data.gradient(teacher).abs().max() < 1e-6


def test_algorithm_1_is_momentum_and_runs_do_not_depend_on_each_other() -> None:
    data, teacher, generator = problem(4, 3, 20, 5, 200, 0)
    start = perturbed(teacher, 0.3, generator)
    two, _ = accelerated(data, start, rate=1.0, momentum=0.5, steps=2)
    first = start - data.gradient(start)
    assert torch.allclose(
        two, first - data.gradient(first) + 0.5 * (first - start), atol=1e-6
    )
    many, errors = accelerated(
        data,
        start,
        rate=3.0,
        momentum=0.8,
        steps=500,
        teacher=teacher,
        enough=1e-4,
        every=50,
    )
    assert (relative_error(many, teacher) < 1e-4).all()
    assert torch.allclose(errors[0], torch.full((4,), 0.3), atol=1e-4)
    some = torch.tensor([2])
    alone, _ = accelerated(
        data.some(some),
        start[some],
        rate=3.0,
        momentum=0.8,
        steps=500,
        teacher=teacher[some],
        enough=1e-4,
    )
    assert torch.allclose(alone[0], many[2], atol=1e-5)


def test_noise_is_measured_by_the_outputs_energy() -> None:
    masks, teacher = draw_masks(2, 3, 20, 5, seeded()), draw_teacher(2, 3, 5, seeded(1))
    clean = draw_masked(teacher, masks, 20, 5000, seeded(2))
    noisy = draw_masked(teacher, masks, 20, 5000, seeded(2), noise=0.1)
    assert torch.equal(clean.inputs, noisy.inputs)
    ratio = (noisy.labels - clean.labels).square().mean(
        1
    ).sqrt() / clean.labels.square().mean(1).sqrt()
    assert torch.allclose(ratio, torch.full((2,), 0.1), rtol=0.05)


def test_the_low_moments_are_the_formulas_and_the_directions_the_teacher_s() -> None:
    generator = seeded()
    masks = torch.stack([torch.arange(4), torch.arange(4) + 4])[
        None
    ]  # no input is shared
    teacher = torch.tensor([[[0.5, 0.1, -0.3, 0.0], [-0.1, 0.4, 0.2, 0.4]]])
    chunks = [draw_masked(teacher, masks, 8, 100_000, generator) for _ in range(4)]
    first, second = low_moments(chunks)
    lengths = teacher[0].norm(dim=1, keepdim=True)
    assert (first - teacher[0].sum(0) / (2 * 2**1.5)).abs().max() < 0.002
    expected = (teacher[0] / lengths).T @ teacher[0] / (math.sqrt(2 * math.pi) * 4)
    assert (second - expected).abs().max() < 0.003
    found = directions(chunks, first, second, generator)
    overlap = (found @ (teacher[0] / lengths).T).abs()
    assert overlap.max(0).values.min() > 0.97


def test_the_tensor_initialization_leads_to_the_teacher_and_improves_with_samples() -> (
    None
):
    few, many = start_qualities(
        MomentSize(runs=6, samples=(5_000, 200_000), width=100, kept=4), 0
    )
    assert many.median < 0.5 * few.median
    assert many.median < 0.2
    assert many.success == 1


@pytest.mark.sweep
def test_the_rate_grows_with_the_root_of_r_and_momentum_lowers_it() -> None:
    speed = rates(SMALL, 0)
    for found in (speed.measured, speed.slowest):
        for kept in SMALL.rate_ranks:
            assert found["AGD", kept].mean < found["GD", kept].mean < 1
        assert (
            line_r2({kept: found["GD", kept].mean for kept in SMALL.rate_ranks}, 0.5)
            >= 0.9
        )
    for key, slowest in speed.slowest.items():
        assert (
            0
            < slowest.mean - speed.measured[key].mean
            < 0.1 * (1 - slowest.mean) + 1e-3
        )


def test_the_measured_rate_is_that_of_algorithm_1() -> None:
    """The two columns of `courses` are Algorithm 1 with and without momentum, run by run."""
    size = replace(SMALL, rate_steps=100, rate_every=50)
    data, teacher, generator = problem(1, 3, 20, 5, 200, 0)
    data, teacher = Masked(data.inputs.double(), data.labels.double()), teacher.double()
    data = replace(data, labels=data.outputs(teacher))
    start = perturbed(teacher.float(), 0.1, generator).double()
    errors = courses(data, teacher, start, size)
    for index, momentum in enumerate((size.slow_momentum, 0.0)):
        _, expected = accelerated(
            data,
            start,
            rate=size.slow_rate,
            momentum=momentum,
            steps=100,
            teacher=teacher,
            every=50,
        )
        assert torch.allclose(errors[:, index], expected[:, 0], rtol=1e-9)
    two = 0.9 ** torch.arange(400.0).double() + 0.99 ** torch.arange(400.0).double()
    assert last_rate(two, replace(size, rate_every=1)) == pytest.approx(0.99, abs=5e-4)


@pytest.mark.parametrize("momentum", [0.0, 0.2])
def test_the_rate_of_a_run_rises_to_that_of_the_slowest_mode(momentum: float) -> None:
    """Faster modes die out first; a run ends, by its smallest step, while the last of them is still there."""
    data, teacher, generator = problem(1, 2, 20, 4, 300, 0)
    data, teacher = Masked(data.inputs.double(), data.labels.double()), teacher.double()
    data = replace(data, labels=data.outputs(teacher))
    start = teacher + 1e-3 * torch.randn(
        teacher.shape, generator=generator, dtype=torch.float64
    )
    _, errors = accelerated(
        data, start, rate=0.5, momentum=momentum, steps=400, teacher=teacher, every=50
    )
    rates = [float(after / before) ** (1 / 50) for before, after in pairwise(errors)]
    slowest = asymptotic_rate(hessian_eigenvalues(data, teacher), 0.5, momentum)
    assert len(rates) >= 4
    assert rates == sorted(rates)
    assert slowest - 1e-3 < rates[-1] < slowest


@pytest.mark.sweep
def test_the_samples_needed_grow_as_r() -> None:
    halves = {kept: half for kept, (_, half) in transitions(SMALL, 0).items()}
    assert line_r2(halves, 1.0) >= 0.95


def test_the_error_grows_as_the_root_of_r_and_as_the_noise() -> None:
    found = noisy_errors(SMALL, 0)
    assert (
        line_r2({kept: found[0.02, kept].mean for kept in SMALL.noise_ranks}, 0.5)
        >= 0.95
    )
    for kept in SMALL.noise_ranks:
        assert found[0.02, kept].mean / found[0.01, kept].mean == pytest.approx(
            2, rel=0.1
        )


def test_imp_is_best_within_a_pruning_step_of_the_teacher_s_sparsity() -> None:
    """From near the teacher; a blind start with as few samples does not find it, and knew nothing of its mask."""
    found = pruned_errors(replace(SMALL, imp_samples=(200,), imp_cycles=9), 0)
    near, blind = found["near", 200], found["blind", 200]
    best = min(near.cycles, key=lambda cycle: cycle.error.mean)
    assert 0.2 * 0.8 <= best.left <= 0.2 / 0.8
    assert near.cycles[-1].error.mean > 10 * best.error.mean
    assert float(near.untrained.mean()) > 0.6 > 0.45 > float(blind.untrained.mean())
    assert blind.cycles[0].error.mean > 10 * near.cycles[0].error.mean


def test_one_pruning_after_descent_gives_the_teacher_s_mask() -> None:
    size = replace(SMALL, once_runs=4, once_samples=(400,), imp_starts=("near",))
    found = pruned_once(size, 0)["near", 400]
    assert found.exact == found.success == 1
    assert found.recall.mean == 1 > found.untrained.mean
    assert 0 < found.steps <= found.enough


def test_recall_counts_the_mask_in_any_order_of_the_neurons() -> None:
    teacher = torch.tensor([[[1.0, -2.0, 0.0, 0.0], [0.0, 0.0, 3.0, 4.0]]])
    assert recall(teacher.flip(1), teacher).tolist() == [1.0]
    half = torch.tensor([[[5.0, 0.0, 5.0, 0.0], [5.0, 0.0, 5.0, 0.0]]])
    assert recall(half, teacher).tolist() == [0.5]


def test_shared_inputs_give_the_gradient_of_inputs_by_neuron() -> None:
    generator = seeded()
    inputs, labels = (
        torch.randn(s, generator=generator) for s in ((2, 40, 6), (2, 40))
    )
    weights = torch.randn(2, 3, 6, generator=generator)
    apart = Masked(inputs[:, None].expand(-1, 3, -1, -1).contiguous(), labels)
    together = Dense(inputs, labels)
    assert torch.allclose(apart.outputs(weights), together.outputs(weights), atol=1e-6)
    assert torch.allclose(
        apart.gradient(weights), together.gradient(weights), atol=1e-6
    )
    some = torch.tensor([1])
    assert torch.equal(together.some(some).labels, labels[1:])


def test_the_hessian_has_the_theorem_s_order_in_k_and_no_negative_curvature() -> None:
    size = replace(
        SMALL,
        bound_runs=2,
        bound_neurons=(2, 8),
        bound_ranks=(5, 20),
        bound_distances=(0.0, 0.8),
        need_rank=10,
    )
    found = hessian_bounds(size, 0)
    few, many = found["K"].values()
    assert few.least.mean < 4 * many.least.mean
    assert few.most.mean < 4 * many.most.mean
    low, high = found["r"].values()
    assert low.least.mean > high.least.mean > 0
    assert found["distance"][0.8].least.mean > 0
    assert found["distance"][0.8].secant.mean > found["distance"][0.8].least.mean


@pytest.mark.sweep
def test_the_samples_needed_hardly_depend_on_the_number_of_inputs() -> None:
    size = replace(
        SMALL, need_runs=6, need_rank=8, need_neurons=(2, 4), need_widths=(20, 80)
    )
    found = samples_needed(size, 0)
    assert found["K"][4] > 1.3 * found["K"][2]
    assert found["d"][80] < 1.3 * found["d"][20]


def test_the_radius_falls_with_r() -> None:
    radius = [mean.mean for mean in radii(SMALL, 0).values()]
    assert radius[0] > 1.5 * radius[1] > 1.5 * 1.5 * radius[2] > 0


def test_half_points_are_interpolated() -> None:
    assert math.isnan(half_point({10: 0.0, 20: 0.2}))
    assert math.isnan(half_point({10: 0.6, 20: 1.0}))
    assert half_point({10: 0.0, 20: 1.0, 30: 0.2, 40: 1.0}) == pytest.approx(33.75)


def test_the_whole_experiment_is_reported_and_drawn() -> None:
    tiny = replace(
        SMALL,
        radius_ranks=(10, 12),
        radius_runs=2,
        radius_halvings=2,
        rate_steps=60,
        sample_ranks=(6, 8),
        sample_runs=2,
        noise_ranks=(4, 8),
        imp_cycles=4,
        once_runs=2,
        once_samples=(100,),
        bound_runs=1,
        bound_neurons=(2, 3),
        bound_ranks=(5, 10),
        bound_distances=(0.0, 0.1),
        need_runs=1,
        need_rank=5,
        need_neurons=(2, 3),
        need_widths=(20, 30),
        sample_shares=(1.0, 3.0),
        steps=100,
        moments=MomentSize(
            runs=1, samples=(5_000,), chunk=5_000, width=40, kept=4, steps=50
        ),
    )
    findings = measure(tiny, 0)
    assert len(findings.grids) == 6 + 2 + 2 + 1 + 3 + 1
    lines, imp = 6 + len(SMALL.noise_levels), 2 * len(SMALL.imp_samples)
    assert len(findings.checks) == lines + 2 + imp + 1 + 1 + 6
    for draw in findings.figures.values():
        figure = Figure()
        draw(figure)
        assert figure.axes
