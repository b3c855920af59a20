"""The laws of the design, over every registered method and the sums of two; a new method is covered without an edit."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import sparsify_fx
from sparsify_fx.errors import RecipeError
from sparsify_fx.masks import kept_count
from sparsify_fx.owners import programs
from sparsify_fx.recipe import METHODS, find_method
from sparsify_fx.schedules import Budget
from sparsify_fx.zoo import methods as _methods
from tests.conftest import batch, effective, small_net, train_step

assert _methods  # the import fills the registry
EPOCHS, STEPS = 3, 2
SPARSITY = 0.7


def mergeable(a: str, b: str) -> bool:
    try:
        find_method(f"{a}+{b}")
    except RecipeError:
        return False
    return True


SUMS = [f"{a}+{b}" for a, b in itertools.combinations(METHODS, 2) if mergeable(a, b)]
ALL = [*METHODS, *SUMS]
every_method = pytest.mark.parametrize("method", ALL)


def loss_of(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(outputs, targets)


def prepare(method: str, sparsity: float = SPARSITY, seed: int = 0) -> nn.Sequential:
    criterion = find_method(method).resolved().criterion
    if hasattr(criterion, "rounds"):
        criterion = dataclasses.replace(criterion, rounds=4)  # the laws do not depend on it, the time does
    given = {"sparsity": sparsity, "batches": [batch()], "loss_fn": loss_of, "seed": seed, "criterion": criterion}
    return sparsify_fx.apply(small_net(), method, **given)


def schedule(model: nn.Module, optimizer: torch.optim.Optimizer) -> sparsify_fx.Scheduler:
    return sparsify_fx.Scheduler(
        model, optimizer, epochs=EPOCHS, steps_per_epoch=STEPS, batches=[batch()], loss_fn=loss_of
    )


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)


def run(model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: sparsify_fx.Scheduler) -> Iterator[int]:
    """Train to the end of the schedule, handing over after every step."""
    while not scheduler.finished:
        inputs, labels = batch(scheduler.step_count)
        optimizer.zero_grad()
        (F.cross_entropy(model(inputs), labels) + scheduler.penalty()).backward()
        optimizer.step()
        scheduler.observe(accuracy=scheduler.step_count / 100)
        scheduler.step()
        yield scheduler.step_count


def test_there_are_sums() -> None:
    assert {"lrr+signin", "imp+signin", "signin+wr", "random+signin", "magnitude+signin"} <= set(SUMS)


@every_method
def test_apply_then_merge_returns_the_weights(method: str) -> None:
    model = small_net()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    classes = [type(module) for module in model.modules()]
    sparsify_fx.apply(model, method, sparsity=0.0, batches=[batch()], loss_fn=loss_of)
    sparsify_fx.merge(model)
    assert [type(module) for module in model.modules()] == classes
    assert list(model.state_dict()) == list(before)
    how = find_method(method).resolved().parameterization
    rewritten = {f"{i}.weight" for i in (0, 3, 7)}
    for key, value in model.state_dict().items():
        bound = how.error_bound(before[key]) if key in rewritten else torch.zeros_like(before[key])
        assert ((value - before[key]).abs() <= bound).all(), key


@every_method
def test_the_schedule_ends_on_the_exact_budget(method: str) -> None:
    model = prepare(method)
    optimizer = sgd(model)
    scheduler = schedule(model, optimizer)
    counts = [scheduler.nonzeros()]
    for _ in run(model, optimizer, scheduler):
        counts.append(scheduler.nonzeros())
    dense = find_method(method).resolved().schedule.initial(Budget(10, 0.5)) is None
    total = scheduler.total_weights
    assert counts[-1] == (total if dense else kept_count(total, SPARSITY))
    assert counts == sorted(counts, reverse=True)
    sparsify_fx.merge(model)
    assert sum(int((model[i].weight != 0).sum()) for i in (0, 3, 7)) <= counts[-1]


def optimizers() -> dict[str, Callable[[nn.Module], torch.optim.Optimizer]]:
    return {
        "sgd": sgd,
        "nesterov": lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        "adam": lambda m: torch.optim.Adam(m.parameters(), lr=0.01, weight_decay=0.1),
        "adamw": lambda m: torch.optim.AdamW(m.parameters(), lr=0.01, weight_decay=0.1),
        "rmsprop": lambda m: torch.optim.RMSprop(m.parameters(), lr=0.01, momentum=0.9),
    }


@pytest.mark.parametrize(("kind", "amp"), [*((kind, False) for kind in optimizers()), ("sgd", True)])
@every_method
def test_pruned_weights_are_zero_at_every_step(method: str, kind: str, amp: bool) -> None:
    model = prepare(method)
    optimizer = optimizers()[kind](model)
    scheduler = schedule(model, optimizer)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    context = torch.autocast("cpu", dtype=torch.bfloat16) if amp else contextlib.nullcontext()
    while not scheduler.finished:
        with context:
            train_step(model, optimizer, scheduler.step_count)
        for program in programs(model).values():
            mask = program.current_mask()
            for factor in program.factor_tensors().values():
                assert factor.grad is not None
                assert torch.isfinite(factor.grad).all()
                if mask is not None:
                    assert (factor.grad[mask == 0] == 0).all(), "a gradient reached a pruned weight"
        scheduler.observe(accuracy=0.5)
        scheduler.step()
        averaged.update_parameters(model)
        for copied in (model, averaged.module):
            for name, weight in effective(copied).items():
                mask = programs(model)[name].current_mask()
                assert mask is None or (weight[mask == 0] == 0).all()


@every_method
def test_momentum_of_pruned_weights_is_cleared(method: str) -> None:
    model = prepare(method)
    optimizer = sgd(model)
    scheduler = schedule(model, optimizer)
    for _ in run(model, optimizer, scheduler):
        for program in programs(model).values():
            mask = program.current_mask()
            for name, factor in program.factor_tensors().items():
                momentum = optimizer.state.get(factor, {}).get("momentum_buffer")
                if momentum is None or mask is None or program.parameterization.split(torch.zeros(1))[name] != 0:
                    continue  # m of a pruned weight is sqrt(β) and decays, as does a gate; w or d, and so θ, stays zero
                assert (momentum[mask == 0] == 0).all()


@every_method
def test_state_dict_round_trips_and_a_dense_checkpoint_is_split(method: str) -> None:
    model = prepare(method)
    train_step(model, sgd(model))
    twin = prepare(method, seed=1)
    twin.load_state_dict(copy.deepcopy(model.state_dict()))
    assert all(torch.equal(a, b) for a, b in zip(effective(model).values(), effective(twin).values(), strict=True))

    dense = small_net(seed=5)
    missing, unexpected = model.load_state_dict(dense.state_dict(), strict=True)
    assert not missing
    assert not unexpected
    for name, weight in effective(model).items():
        mask = programs(model)[name].current_mask()
        expected = dense.get_parameter(name).detach() * (1 if mask is None else mask)
        torch.testing.assert_close(weight, expected, rtol=3e-7, atol=0)

    keys = list(dense.state_dict())
    merged = sparsify_fx.dense_state_dict(model)
    assert list(merged) == keys
    dense.load_state_dict(merged, strict=True)


@pytest.mark.parametrize("at", [1, 6, 7, 9])
@every_method
def test_a_resumed_training_ends_bit_identical(method: str, at: int) -> None:
    straight = prepare(method)
    optimizer = sgd(straight)
    scheduler = schedule(straight, optimizer)
    saved = None
    for step in run(straight, optimizer, scheduler):
        if step == min(at, scheduler.steps - 1):
            saved = copy.deepcopy((straight.state_dict(), optimizer.state_dict(), scheduler.state_dict()))
    assert saved is not None

    resumed = prepare(method)
    second = sgd(resumed)
    again = schedule(resumed, second)
    resumed.load_state_dict(saved[0])
    second.load_state_dict(saved[1])
    again.load_state_dict(saved[2])
    for _ in run(resumed, second, again):
        pass
    ends = straight.state_dict(), resumed.state_dict()
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


@pytest.mark.parametrize(("a", "b"), list(itertools.combinations(METHODS, 2)))
def test_a_plus_b_equals_b_plus_a(a: str, b: str) -> None:
    if mergeable(a, b):
        assert find_method(f"{a}+{b}") == find_method(f"{b}+{a}")
    else:
        assert not mergeable(b, a)


@every_method
def test_same_seed_same_bits(method: str) -> None:
    ends = []
    for seed in (3, 3):
        model = prepare(method, seed=seed)
        optimizer = sgd(model)
        for _ in run(model, optimizer, schedule(model, optimizer)):
            pass
        ends.append(effective(model))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
