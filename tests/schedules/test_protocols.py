"""What the papers' protocols need of schedules: pruning after the last step, sparse starts, penalties in cycles."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsify_fx.api import apply
from sparsify_fx.errors import MethodError
from sparsify_fx.passes import Merge
from sparsify_fx.programs.owners import programs
from sparsify_fx.scheduler.scheduler import Scheduler
from sparsify_fx.schedules import Budget, Cycles

LAST = {"name": "late", "at": 1.0}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 5))


def prepared(method: str, **axes: Any) -> tuple[nn.Module, Scheduler]:
    model = apply(net(), method, **axes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return model, Scheduler(model, optimizer, epochs=2, steps_per_epoch=4)


def step(model: nn.Module, scheduler: Scheduler, number: int) -> None:
    x = torch.randn(8, 20, generator=torch.Generator().manual_seed(number))
    (model(x).square().mean() + scheduler.penalty()).backward()
    for optimizer in scheduler.optimizers:
        optimizer.step()
        optimizer.zero_grad()
    if (number + 1) % scheduler.steps_per_epoch == 0:
        scheduler.observe(accuracy=0.5)
    scheduler.step()


def effective(model: nn.Module) -> list[Tensor]:
    return [p.effective().detach().clone() for p in programs(model).values()]


@pytest.mark.parametrize("method", ["l1", "spred", "pilot", "l0", "cs", "str"])
def test_late_at_the_end_prunes_after_the_last_step_and_penalizes_until_then(
    method: str,
) -> None:
    model, scheduler = prepared(method, sparsity=0.5, schedule=LAST)
    for number in range(scheduler.steps):
        assert scheduler.density() == 1
        step(model, scheduler, number)
    assert scheduler.finished
    assert scheduler.density() == 0.5

    # Loaded somewhere else, gates that settled stay so.
    again, other = prepared(method, sparsity=0.5, schedule=LAST)
    again.load_state_dict(model.state_dict())
    other.load_state_dict(scheduler.state_dict())
    for one, two in zip(effective(model), effective(again), strict=True):
        assert torch.equal(one, two)
    plain = Merge()(again)
    weights = [p for p in plain.graph_module.parameters() if p.dim() > 1]
    assert sum(int(p.count_nonzero()) for p in weights) <= 250


def test_late_at_the_end_is_stopped_and_resumed_to_the_same_bits() -> None:
    model, scheduler = prepared("spred", sparsity=0.5, schedule=LAST)
    for number in range(scheduler.steps - 1):
        step(model, scheduler, number)
    again, other = prepared("spred", sparsity=0.5, schedule=LAST)
    again.load_state_dict(model.state_dict())
    other.load_state_dict(scheduler.state_dict())
    for optimizer, saved in zip(other.optimizers, scheduler.optimizers, strict=True):
        optimizer.load_state_dict(copy.deepcopy(saved.state_dict()))
    for trained, by in ((model, scheduler), (again, other)):
        step(trained, by, scheduler.steps - 1)
    assert all(map(torch.equal, effective(model), effective(again)))


@pytest.mark.parametrize("method", ["lrr+pilot-init", "lrr+spred", "imp+l1", "wr+l1"])
def test_in_cycles_a_penalty_has_a_constant_strength(method: str) -> None:
    model = apply(net(), method, sparsity=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = Scheduler(model, optimizer, epochs=12, steps_per_epoch=1)
    for _ in range(scheduler.steps):
        assert float(scheduler.penalty().detach()) > 0
        x = torch.randn(8, 20)
        (model(x).square().mean() + scheduler.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    assert scheduler.density() == 0.5
    assert len({strength for _, strength in scheduler.strengths}) == 1
    told = {row[3]: row[4] for row in scheduler.timeline().rows()}
    assert told["penalty"].endswith("constant strength")


@pytest.mark.parametrize("method", ["lrr", "imp", "lrr+signin"])
def test_a_sparse_start_is_random_and_the_cycles_go_on_from_it(method: str) -> None:
    sparse = {"name": "cycles", "start": 0.5}
    model, scheduler = prepared(method, sparsity=0.8, schedule=sparse)
    # Copies: masks change in place.
    first = [
        mask.clone()
        for program in programs(model).values()
        if (mask := program.current_mask()) is not None
    ]
    # Random, and not the smallest weights of the untrained net: those are pruned half of the time.
    small = net()[0].weight.abs() < net()[0].weight.abs().median()
    assert 0.3 < float(first[0][small].float().mean()) < 0.7
    left = [scheduler.density()]
    for number in range(scheduler.steps):
        step(model, scheduler, number)
        left.append(scheduler.density())
    assert sorted(set(left), reverse=True) == pytest.approx(
        [0.5, 0.4, 0.32, 0.256, 0.204, 0.2], abs=1e-3
    )
    assert all(
        bool((now <= was).all())
        for now, was in zip(
            (p.current_mask() for p in programs(model).values()), first, strict=True
        )
        if now is not None
    )
    other = apply(net(), method, sparsity=0.8, schedule=sparse, seed=1)
    drawn = next(iter(programs(other).values())).current_mask()
    assert drawn is not None
    assert not torch.equal(drawn, first[0])


def test_a_start_below_the_sparsity_or_of_a_trained_net_is_refused() -> None:
    with pytest.raises(
        MethodError, match=r"start=0.1 keeps fewer weights than the 0.2"
    ):
        apply(net(), "lrr", sparsity=0.8, schedule=Cycles(start=0.1))
    with pytest.raises(MethodError, match="trained net has no use for"):
        Cycles(start=0.5, trained=True)
    with pytest.raises(MethodError, match="must be a density"):
        Cycles(start=0.0)
    # At the density of the start nothing is left to prune.
    assert Cycles(start=0.5).runs(0.5) == 1
    assert Cycles(start=0.5).initial(Budget(10, 0.5)) == 5
