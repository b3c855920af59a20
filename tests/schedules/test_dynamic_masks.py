"""Schedules that prune gradually, alternate or regrow, against references written here from the papers' formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.errors import MethodError, SchedulerError
from sparsify_fx.masks import kept_count
from sparsify_fx.programs.owners import programs
from sparsify_fx.schedules import Alternating, Budget, Cubic, RegrowEvery
from sparsify_fx.schedules.updates import Decompress
from tests.conftest import batch, effective, small_net

EPOCHS, STEPS, LR = 4, 5, 1.0


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 30, bias=False), nn.Tanh(), nn.Linear(30, 3, bias=False)
    )


def wide() -> nn.Sequential:
    """With a layer whose inputs 4 divides."""
    return nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 3))


def digits(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(12, 6, generator=generator), torch.randint(
        0, 3, (12,), generator=generator
    )


def gradients(weights: list[Tensor], step: int) -> list[Tensor]:
    """Of the loss at the weights, zeros included."""
    leaves = [weight.clone().requires_grad_() for weight in weights]
    inputs, labels = digits(step)
    F.cross_entropy(torch.tanh(inputs @ leaves[0].T) @ leaves[1].T, labels).backward()
    return [leaf.grad for leaf in leaves if leaf.grad is not None]


Trace = list[tuple[list[Tensor], list[Tensor]]]


def ours(method: str) -> Trace:
    """Weights and masks of the library at the start and after each step of plain SGD."""
    given: Any = {"batches": [digits(99)], "loss_fn": F.cross_entropy, "seed": 1}
    model = sparsify_fx.apply(net(), method, sparsity=0.75, **given)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    scheduler = sparsify_fx.Scheduler(
        model, optimizer, epochs=EPOCHS, steps_per_epoch=STEPS, learning_rate="constant"
    )
    trace = [(list(effective(model).values()), masks_of(model))]
    while not scheduler.finished:
        inputs, labels = digits(scheduler.step_count)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        scheduler.step()
        trace.append((list(effective(model).values()), masks_of(model)))
    return trace


def masks_of(model: nn.Module) -> list[Tensor]:
    return [program.current_mask() == 1 for program in programs(model).values()]


def assert_same(ours: Trace, reference: Trace) -> None:
    assert len(ours) == len(reference)
    for step, (left, right) in enumerate(zip(ours, reference, strict=True)):
        for a, b in zip(left[1], right[1], strict=True):
            assert torch.equal(a, b), f"other mask after step {step}"
        for a, b in zip(left[0], right[0], strict=True):
            torch.testing.assert_close(
                a, b, rtol=1e-4, atol=1e-6, msg=f"other weights after step {step}"
            )


def largest(scores: Tensor, count: int) -> Tensor:
    """The `count` highest entries (bool)."""
    chosen = torch.zeros(scores.numel(), dtype=torch.bool)
    chosen[scores.flatten().sort(descending=True, stable=True).indices[:count]] = True
    return chosen.reshape(scores.shape)


def test_acdc_has_the_mask_sequence_of_its_paper() -> None:
    weights = [parameter.detach().clone() for parameter in net().parameters()]
    masks = [torch.ones_like(weight, dtype=torch.bool) for weight in weights]
    reference, kept = [(weights, masks)], kept_count(270, 0.75)
    for step in range(1, EPOCHS * STEPS + 1):
        weights = [
            w - LR * m * g
            for w, m, g in zip(
                weights, masks, gradients(weights, step - 1), strict=True
            )
        ]
        # Of 20 steps: dense until 2, thirteen phases of 1, dense from 15, compressed from 17.
        if step == 17 or (2 <= step < 15 and step % 2 == 0):
            threshold = (
                torch.cat([w.abs().flatten() for w in weights])
                .sort(descending=True)
                .values[kept - 1]
            )
            masks = [w.abs() >= threshold for w in weights]
        elif step <= 15:
            masks = [torch.ones_like(m) for m in masks]
        weights = [w * m for w, m in zip(weights, masks, strict=True)]
        reference.append((weights, masks))
    assert_same(ours("acdc"), reference)


def test_rigl_has_the_mask_sequence_of_its_paper() -> None:
    trace = ours("rigl")
    weights, masks = trace[
        0
    ]  # the random mask at initialization is drawn by the library
    reference, end = [(weights, masks)], 0.75 * EPOCHS * STEPS
    for step in range(1, EPOCHS * STEPS + 1):
        weights = [
            w - LR * m * g
            for w, m, g in zip(
                weights, masks, gradients(weights, step - 1), strict=True
            )
        ]
        if step % STEPS == 0 and step < end:
            fraction = 0.3 / 2 * (1 + math.cos(math.pi * step / end))
            stay, moved = [], [math.floor(fraction * int(m.sum())) for m in masks]
            for w, m, k in zip(weights, masks, moved, strict=True):
                stay.append(largest(torch.where(m, w.abs(), -1), int(m.sum()) - k))
            grown = [
                torch.where(s, -1, g.abs())
                for s, g in zip(stay, gradients(weights, 99), strict=True)
            ]
            masks = [
                s | largest(g, k) for s, g, k in zip(stay, grown, moved, strict=True)
            ]
        weights = [w * m for w, m in zip(weights, masks, strict=True)]
        reference.append((weights, masks))
    assert_same(trace, reference)
    masks_at = [torch.cat([mask.flatten() for mask in masks]) for _, masks in trace]
    changed = [
        step
        for step in range(1, len(trace))
        if not torch.equal(masks_at[step], masks_at[step - 1])
    ]
    assert changed == [5, 10]


@pytest.mark.parametrize("method", ["rigl", "set", "rigl+signin", "set+signin"])
def test_every_layer_keeps_its_count_and_moves_its_weights(method: str) -> None:
    model = sparsify_fx.apply(
        small_net(), method, sparsity=0.7, batches=[batch()], loss_fn=F.cross_entropy
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    scheduler = sparsify_fx.Scheduler(
        model, optimizer, epochs=EPOCHS, steps_per_epoch=STEPS
    )
    first = {
        name: program.current_mask().clone()
        for name, program in programs(model).items()
    }
    before, moved = first, []
    while not scheduler.finished:
        inputs, labels = batch(scheduler.step_count)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        scheduler.step()
        after = {
            name: program.current_mask().clone()
            for name, program in programs(model).items()
        }
        assert all(after[name].sum() == mask.sum() for name, mask in first.items())
        gone = {
            name: int(((before[name] == 1) & (mask == 0)).sum())
            for name, mask in after.items()
        }
        if any(gone.values()):
            moved.append(scheduler.step_count)
            living = {name: int(mask.sum()) for name, mask in after.items()}
            assert all(gone[name] <= 0.3 * living[name] for name in gone)
        before = after
    # RigL until 0.75 of the run, at f = 0.3/2·(1 + cos): epochs 1 and 2; SET after every epoch but the last.
    assert moved == ([5, 10] if "rigl" in method else [5, 10, 15])


def test_a_weight_dropped_and_grown_at_once_keeps_its_value() -> None:
    model = sparsify_fx.apply(net(), "set", sparsity=0.4, seed=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    scheduler = sparsify_fx.Scheduler(
        model, optimizer, epochs=EPOCHS, steps_per_epoch=1
    )
    inputs, labels = digits(0)
    F.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
    masks = {
        name: program.current_mask().clone()
        for name, program in programs(model).items()
    }
    thetas, momenta = (
        effective(model),
        {name: optimizer.state[p.dense] for name, p in programs(model).items()},
    )
    recorded = {
        name: state["momentum_buffer"].clone() for name, state in momenta.items()
    }
    scheduler.step()
    for name, program in programs(model).items():
        new = program.current_mask()
        both, grown = (masks[name] == 1) & (new == 1), (masks[name] == 0) & (new == 1)
        assert grown.any()
        assert torch.equal(program.theta()[both], thetas[name][both])
        assert torch.equal(momenta[name]["momentum_buffer"][both], recorded[name][both])
        assert not program.theta()[grown].any()
        assert not momenta[name]["momentum_buffer"][grown].any()


def test_cubic_densities_follow_the_formula() -> None:
    budget = Budget(100_000, 0.9, epochs=100)
    updates = Cubic(start=0.2, end=0.7, every=2).updates(budget)
    assert [update.epoch for update in updates] == pytest.approx(
        [20 + 2 * i for i in range(1, 26)]
    )
    for update in updates:
        sparsity = (
            0.9 + (0 - 0.9) * (1 - (update.epoch - 20) / 50) ** 3
        )  # Zhu & Gupta, eq. 1, s_i = 0
        assert update.alive(100_000, 100_000) == round((1 - sparsity) * 100_000)
    assert updates[-1].alive(100_000, 100_000) == 10_000
    uneven = Cubic(start=0.1, end=0.75, every=1.0).updates(Budget(1000, 0.5, epochs=4))
    assert [update.epoch for update in uneven] == pytest.approx([1.4, 2.4, 3.0])


def test_acdc_has_the_published_phases() -> None:
    updates = Alternating().updates(Budget(1000, 0.9, epochs=100))
    dense = [
        round(update.epoch, 6) for update in updates if isinstance(update, Decompress)
    ]
    sparse = [
        round(update.epoch, 6)
        for update in updates
        if not isinstance(update, Decompress)
    ]
    assert sparse == [10, 20, 30, 40, 50, 60, 70, 85]
    assert dense == [15, 25, 35, 45, 55, 65, 75]
    assert all(
        update.alive(1000, 1000) == (1000 if isinstance(update, Decompress) else 100)
        for update in updates
    )


@pytest.mark.parametrize("schedule", [Cubic(), Alternating(), RegrowEvery()])
def test_sparsity_zero_changes_no_mask(
    schedule: Cubic | Alternating | RegrowEvery,
) -> None:
    assert schedule.updates(Budget(1000, 0.0, epochs=100)) == ()


def test_the_update_fraction_falls_as_a_cosine() -> None:
    updates = RegrowEvery().updates(Budget(1000, 0.9, epochs=100))
    assert [update.epoch for update in updates] == list(range(1, 75))
    fractions = [update.fraction for update in updates]  # type: ignore[attr-defined]
    assert fractions == pytest.approx(
        [0.15 * (1 + math.cos(math.pi * t / 75)) for t in range(1, 75)]
    )
    steady = RegrowEvery(growth="random", until=1.0, anneal=False).updates(
        Budget(1000, 0.9, epochs=5)
    )
    assert [(u.epoch, u.fraction) for u in steady] == [(t, 0.3) for t in range(1, 5)]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (
            lambda: Cubic(start=0.8),
            MethodError,
            r"cubic: expected .* got start=0\.8, end=0\.75",
        ),
        (
            lambda: Alternating(phase=0.1),
            MethodError,
            r"odd number of phases, got 6\.5",
        ),
        (lambda: Alternating(phase=0.065), MethodError, "odd number of phases, got 10"),
        (lambda: Alternating(end=0.7), MethodError, "warmup < last_dense < end"),
        (lambda: RegrowEvery(fraction=1.0), MethodError, r"got fraction=1\.0"),
        (
            lambda: RegrowEvery(growth="gradients"),
            ValueError,
            "did you mean 'gradient'",
        ),
        (
            lambda: sparsify_fx.apply(net(), "rigl"),
            MethodError,
            "^rigl needs batches= and loss_fn=$",
        ),
        (
            lambda: short("set", allocation="n:m", include="2"),
            MethodError,
            "set: regrowing breaks the pattern NofM",
        ),
        (
            lambda: short("acdc"),
            SchedulerError,
            r"15 mask updates do not fit into runs of 6 steps; train for more",
        ),
    ],
)
def test_mistakes_are_explained(
    build: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build()


def short(method: str, **given: Any) -> sparsify_fx.Scheduler:
    model = sparsify_fx.apply(wide(), method, sparsity=0.5, **given)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    return sparsify_fx.Scheduler(model, optimizer, epochs=3, steps_per_epoch=2)


@pytest.mark.parametrize("method", ["lrr", "gmp", "acdc"])
def test_n_of_m_is_reached_through_schedules_with_other_budgets_on_the_way(
    method: str,
) -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 8))
    sparsify_fx.apply(model, method, sparsity=0.5, allocation="n:m")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=20, steps_per_epoch=1)
    while not scheduler.finished:
        model(torch.randn(4, 16)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    sparsify_fx.merge(model)
    for layer in (model[0], model[2]):
        assert ((layer.weight.reshape(-1, 4) != 0).sum(1) == 2).all()
