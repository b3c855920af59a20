"""Methods without a target: how their strength moves, where it ends, and what overshooting raises."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.errors import OvershootWarning, SchedulerError
from sparsify_fx.masks import kept_count
from sparsify_fx.programs.owners import programs
from sparsify_fx.scheduler.refresh import progress_at
from sparsify_fx.scheduler.strengths import largest_l1, near_zero_share
from tests.conftest import batch, effective, small_net


def train(
    model: nn.Module,
    epochs: int = 10,
    accuracies: list[float] | None = None,
    steps: int = 4,
    lr: float = 0.1,
) -> sparsify_fx.Scheduler:
    """Train to the end; the accuracies are given epoch by epoch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    scheduler = sparsify_fx.Scheduler(
        model, optimizer, epochs=epochs, steps_per_epoch=steps, learning_rate="constant"
    )
    while not scheduler.finished:
        inputs, labels = batch(0)
        optimizer.zero_grad()
        (F.cross_entropy(model(inputs), labels) + scheduler.penalty()).backward()
        optimizer.step()
        epoch, last = divmod(scheduler.step_count + 1, steps)
        if accuracies is not None and last == 0:
            scheduler.observe(accuracy=accuracies[epoch - 1])
        scheduler.step()
    return scheduler


def test_pilots_strength_through_the_scheduler() -> None:
    penalty = {"name": "pilot", "strength": 1.0e-3, "delta": 2.0, "threshold": 0.0}
    model = sparsify_fx.apply(small_net(), "pilot", sparsity=0.5, penalty=penalty)
    scheduler = train(
        model, epochs=6, accuracies=[0.2, 0.3, 0.4, 0.5, 0.6, 0.7], lr=0.01
    )
    # after epochs 1, 2, 3 up, after 4 down; the final pruning after 4.8 epochs ends it
    assert scheduler.strengths == (
        (0, 1e-3),
        (4, 2e-3),
        (8, 4e-3),
        (12, 8e-3),
        (16, 4e-3),
        (19, 0.0),
    )


def test_pilot_starts_again_in_every_cycle_and_needs_the_accuracy() -> None:
    penalty = {"name": "pilot", "strength": 1.0e-3, "delta": 2.0, "threshold": 0.0}
    model = sparsify_fx.apply(small_net(), "lrr+pilot", sparsity=0.3, penalty=penalty)
    scheduler = train(model, epochs=2, accuracies=[0.5] * 6, lr=0.01)
    assert scheduler.strengths == (
        (0, 1e-3),
        (4, 2e-3),
        (8, 1e-3),
        (12, 2e-3),
        (16, 1e-3),
        (20, 2e-3),
    )
    with pytest.raises(SchedulerError, match="epoch 1 of a run"):
        train(sparsify_fx.apply(small_net(), "lrr+pilot", sparsity=0.3))


@pytest.mark.parametrize(
    "method", ["l1", "spred", "str", "cs", "l0", "pilot-init", "powerprop"]
)
def test_methods_without_a_target_reach_the_sparsity(method: str) -> None:
    model = sparsify_fx.apply(small_net(), method, sparsity=0.8)
    scheduler = train(model)
    assert scheduler.nonzeros() == kept_count(scheduler.total_weights, 0.8)
    assert scheduler.strength == 0
    weights = torch.cat(
        [weight.flatten() for weight in effective(model.eval()).values()]
    )
    assert int(weights.count_nonzero()) == scheduler.nonzeros(), (
        "settled gates must not close another weight"
    )


def test_the_strength_brings_most_weights_near_zero() -> None:
    shares = {}
    for strength in (0.0, 1e-3):
        model = sparsify_fx.apply(
            small_net(),
            "l1",
            sparsity=0.8,
            penalty={"name": "l1", "strength": strength},
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
        scheduler = sparsify_fx.Scheduler(
            model, optimizer, epochs=50, steps_per_epoch=4, learning_rate="constant"
        )
        for step in range(159):  # the final pruning comes after 160
            inputs, labels = batch(step % 4)
            optimizer.zero_grad()
            (F.cross_entropy(model(inputs), labels) + scheduler.penalty()).backward()
            optimizer.step()
            scheduler.step()
        shares[strength] = near_zero_share(model)
    assert shares[0.0] < 0.2
    assert 0.5 < shares[1e-3] < 0.8


def test_a_run_that_overshoots_ends_on_the_count_with_a_warning() -> None:
    model = sparsify_fx.apply(small_net(), "cs", sparsity=0.5)
    for program in programs(model).values():
        with torch.no_grad():
            program.logit.flatten()[::10] = 0.5
            program.logit[program.logit < 0.5] = -1.0
    told = r"80 of 792 weights are left, 396 were asked for: the 316 nearest to open come back"
    with pytest.warns(OvershootWarning, match=told):
        train(model, epochs=2)
    left = [
        int(program.effective().count_nonzero()) for program in programs(model).values()
    ]
    assert sum(left) == 396


def test_settling_makes_thresholds_final_and_clears_their_momentum() -> None:
    start = {"name": "soft-threshold", "start": -4}
    model = sparsify_fx.apply(small_net(), "str", sparsity=0.8, parameterization=start)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=5, steps_per_epoch=1)
    for step in range(4):
        inputs, labels = batch(step)
        optimizer.zero_grad()
        (F.cross_entropy(model(inputs), labels) + scheduler.penalty()).backward()
        optimizer.step()
        before = {name: program.theta() for name, program in programs(model).items()}
        scheduler.step()
    for name, program in programs(model).items():
        assert float(program.s.detach()) == -4
        assert float(optimizer.state[program.s]["momentum_buffer"]) == 0
        mask = program.current_mask()
        assert mask is not None
        torch.testing.assert_close(
            program.theta(), before[name] * mask, rtol=1e-6, atol=1e-7
        )


def test_progress_reaches_one_at_the_last_mask_update_of_a_run() -> None:
    model = sparsify_fx.apply(small_net(), "cs", sparsity=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=10, steps_per_epoch=2)
    assert [
        progress_at(scheduler._clock, scheduler._tracks[0].updates, step)
        for step in (0, 8, 16, 19)
    ] == [
        0,
        0.5,
        1,
        1,
    ]
    lrr = sparsify_fx.apply(
        small_net(), "lrr", sparsity=0.3, parameterization="sigmoid-gate"
    )
    cycles = sparsify_fx.Scheduler(
        lrr, torch.optim.SGD(lrr.parameters(), lr=0.01), epochs=10, steps_per_epoch=2
    )
    assert [
        progress_at(cycles._clock, cycles._tracks[0].updates, step)
        for step in (0, 10, 20, 30)
    ] == [0, 0.5, 0, 0.5]


def test_near_zero_and_largest() -> None:
    model = nn.Linear(10, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -1.0, 0.05, 0.2, 0, 0, 0, 0, 0, 0]]))
    sparsify_fx.apply(model, "l1", sparsity=0.5)
    assert (
        near_zero_share(model) == 0.7
    )  # 0.2 is not near zero, whatever the number of zeros
    assert largest_l1(model, 0.8) == 2.0
    with torch.no_grad():
        programs(model)["weight"].dense.mul_(1e-15)
    assert near_zero_share(model) == 0.7
    with torch.no_grad():
        programs(model)["weight"].dense.zero_()
    assert near_zero_share(model) == 1.0


def test_a_checkpoint_brings_noise_and_strength_back() -> None:
    model = sparsify_fx.apply(small_net(), "l0", sparsity=0.8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=5, steps_per_epoch=4)
    for _ in range(3):
        scheduler.step()
    twin = sparsify_fx.apply(small_net(), "l0", sparsity=0.8)
    again = sparsify_fx.Scheduler(
        twin, torch.optim.SGD(twin.parameters(), lr=0.1), epochs=5, steps_per_epoch=4
    )
    assert not torch.equal(model(batch()[0]), twin(batch()[0]))
    twin.load_state_dict(copy.deepcopy(model.state_dict()))
    again.load_state_dict(copy.deepcopy(scheduler.state_dict()))
    for one, other in zip(
        programs(model).values(), programs(twin).values(), strict=True
    ):
        assert torch.equal(one(), other())
    assert again.strength == scheduler.strength
    assert again.strengths == scheduler.strengths
