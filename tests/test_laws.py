"""The laws of the design, over every registered method and the sums of two; a new method is covered without an edit."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import sparsify_fx
from sparsify_fx.errors import RecipeError, SchedulerError
from sparsify_fx.masks import kept_count
from sparsify_fx.owners import programs
from sparsify_fx.recipe import METHODS, find_method
from sparsify_fx.schedules import Budget
from sparsify_fx.zoo import methods as _methods
from tests.conftest import batch, effective, small_net, train_step

pytestmark = pytest.mark.slow

assert _methods  # the import fills the registry
EPOCHS = 4
SPARSITY = 0.5  # four prunings in cycles
SAVED_AT = (0.0, 0.6, 1.0, 1.3)  # in lengths of the first run: soon, in its middle, at its end, in the second


def mergeable(a: str, b: str) -> bool:
    try:
        find_method(f"{a}+{b}")
    except RecipeError:
        return False
    return True


# Sums with a method of each sort (a parameterization, a penalty, cycles); that a+b is b+a is shown for all pairs.
PARTNERS = ("signin", "pilot", "lrr")
PAIRS = [pair for pair in itertools.combinations(METHODS, 2) if set(pair) & set(PARTNERS)]
SUMS = [f"{a}+{b}" for a, b in PAIRS if mergeable(a, b)]
# The laws depend on the axes alone: of several names for one point the first is tested.
ALL = list({repr(find_method(name).resolved()): name for name in reversed([*METHODS, *SUMS])}.values())[::-1]
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
    """With the shortest runs that the mask updates fit into: 2 steps an epoch, 5 for the 20 phases of AC/DC."""
    given = {"epochs": EPOCHS, "batches": [batch()], "loss_fn": loss_of}
    for steps in (2, 3):
        with contextlib.suppress(SchedulerError):
            return sparsify_fx.Scheduler(model, optimizer, steps_per_epoch=steps, **given)
    return sparsify_fx.Scheduler(model, optimizer, steps_per_epoch=5, **given)


def saved_at(share: float, scheduler: sparsify_fx.Scheduler) -> int:
    """The step after a share of the first run; at least one step after the start and before the end."""
    return min(max(round(share * EPOCHS * scheduler.steps_per_epoch), 1), scheduler.steps - 1)


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


@dataclass
class Record:
    """One training with SGD: non-zeros after each step, the largest stale momentum, saved states, the end."""

    scheduler: sparsify_fx.Scheduler
    counts: list[int]
    stale: float = 0.0
    saved: dict[int, Any] = field(default_factory=dict)
    end: dict[str, torch.Tensor] = field(default_factory=dict)
    merged_nonzeros: int = 0


@functools.cache
def straight(method: str) -> Record:
    """Train from beginning to end; several laws look at the same training."""
    model = prepare(method)
    optimizer = sgd(model)
    scheduler = schedule(model, optimizer)
    record = Record(scheduler, [scheduler.nonzeros()])
    before = masks_of(model)
    for step in run(model, optimizer, scheduler):
        record.counts.append(scheduler.nonzeros())
        record.stale = max(record.stale, stale_momentum(model, optimizer, before))
        before = masks_of(model)
        if step in {saved_at(share, scheduler) for share in SAVED_AT}:
            record.saved[step] = copy.deepcopy((model.state_dict(), optimizer.state_dict(), scheduler.state_dict()))
    record.end = copy.deepcopy(model.state_dict())
    sparsify_fx.merge(model)
    record.merged_nonzeros = sum(int((model[i].weight != 0).sum()) for i in (0, 3, 7))
    return record


def masks_of(model: nn.Module) -> dict[str, torch.Tensor]:
    masks = {name: program.current_mask() for name, program in programs(model).items()}
    return {name: mask.clone() for name, mask in masks.items() if mask is not None}


def stale_momentum(model: nn.Module, optimizer: torch.optim.Optimizer, before: dict[str, torch.Tensor]) -> float:
    """The largest momentum of a pruned weight, and momentum or value of one that has just come back."""
    largest = 0.0
    for name, mask in masks_of(model).items():
        program, grown = programs(model)[name], (mask == 1) & (before[name] == 0)
        largest = max(largest, *program.theta()[grown].abs().tolist(), 0.0)
        zero = program.parameterization.split(torch.zeros(1))
        for factor, tensor in program.factor_tensors().items():
            momentum = optimizer.state.get(tensor, {}).get("momentum_buffer")
            if momentum is not None and factor in zero:
                # m of a pruned weight is sqrt(β) and decays, as does a gate; w or d, and so θ, stays zero.
                watched = grown if zero[factor] != 0 else grown | (mask == 0)
                largest = max(largest, *momentum[watched].abs().tolist(), 0.0)
    return largest


def test_there_are_sums() -> None:
    partners = ("acdc", "gmp", "imp", "lrr", "magnitude", "random", "rigl", "set", "wr")
    assert {"+".join(sorted((method, "signin"))) for method in partners} <= {
        "+".join(sorted(s.split("+"))) for s in SUMS
    }
    assert {"lrr+pilot", "pilot+wr"} <= set(SUMS)


merged_at_once = pytest.mark.filterwarnings("ignore::sparsify_fx.errors.UnfinishedWarning")


@merged_at_once
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


def expected_counts(method: str, scheduler: sparsify_fx.Scheduler) -> list[int]:
    """Living weights after each step, from what the schedule states about its own updates."""
    chosen, total = find_method(method).resolved().schedule, scheduler.total_weights
    budget = Budget(total, SPARSITY, EPOCHS)
    initial, updates = chosen.initial(budget), chosen.updates(budget)
    kinds = {update.label(total)[0] for update in updates}
    steps = [event.step for event in scheduler.timeline().events if event.what in kinds]
    due = dict(zip(steps, updates, strict=True))
    alive, counts = total if initial is None else initial, []
    for step in range(scheduler.steps + 1):
        alive = due[step].alive(alive, total) if step in due else alive
        counts.append(alive)
    return counts


@every_method
def test_the_counts_follow_the_schedule_and_end_on_the_exact_budget(method: str) -> None:
    record = straight(method)
    total, chosen = record.scheduler.total_weights, find_method(method).resolved().schedule
    budget = Budget(total, SPARSITY, EPOCHS)
    dense = chosen.initial(budget) is None
    assert record.counts[-1] == (total if dense else kept_count(total, SPARSITY))
    assert record.counts == expected_counts(method, record.scheduler)
    if all(update.alive(count, total) <= count for update in chosen.updates(budget) for count in (1, total)):
        assert record.counts == sorted(record.counts, reverse=True), "no update grows the net"
    assert record.merged_nonzeros <= record.counts[-1]


def optimizers() -> dict[str, Callable[[nn.Module], torch.optim.Optimizer]]:
    return {
        "sgd": sgd,
        "nesterov": lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        "adam": lambda m: torch.optim.Adam(m.parameters(), lr=0.01, weight_decay=0.1),
        "adamw": lambda m: torch.optim.AdamW(m.parameters(), lr=0.01, weight_decay=0.1),
        "rmsprop": lambda m: torch.optim.RMSprop(m.parameters(), lr=0.003, momentum=0.9),
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
def test_pruned_weights_have_no_momentum_and_regrown_ones_start_from_zero(method: str) -> None:
    assert straight(method).stale == 0


@merged_at_once
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


@pytest.mark.parametrize("at", SAVED_AT)
@every_method
def test_a_resumed_training_ends_bit_identical(method: str, at: float) -> None:
    record = straight(method)
    saved = copy.deepcopy(record.saved[saved_at(at, record.scheduler)])
    resumed = prepare(method)
    optimizer = sgd(resumed)
    scheduler = schedule(resumed, optimizer)
    resumed.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    scheduler.load_state_dict(saved[2])
    for _ in run(resumed, optimizer, scheduler):
        pass
    end = resumed.state_dict()
    assert all(torch.equal(record.end[key], end[key]) for key in record.end)


@pytest.mark.parametrize(("a", "b"), list(itertools.combinations(METHODS, 2)))
def test_a_plus_b_equals_b_plus_a(a: str, b: str) -> None:
    if mergeable(a, b):
        assert find_method(f"{a}+{b}") == find_method(f"{b}+{a}")
    else:
        assert not mergeable(b, a)


@every_method
def test_same_seed_same_bits(method: str) -> None:
    first, second = straight(method).end, straight.__wrapped__(method).end
    assert all(torch.equal(first[name], second[name]) for name in first)
