"""Trainings that were killed go on in either storage, whatever is loaded first."""

from __future__ import annotations

import copy
import functools
import io
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import schedulefree
import torch
from pytorch_optimizer import Lookahead
from torch import Tensor, nn
from torch.optim import Optimizer

import sparsify_fx
from sparsify_fx.errors import SchedulerError
from sparsify_fx.passes.store import StoreFull, StoreLiving
from sparsify_fx.programs.owners import programs
from tests.common import crossed, swept
from tests.living.common import (
    STORAGES,
    adamw,
    applied,
    check_alike,
    check_same_masks,
    digit_net,
    digits,
    scheduled,
    seen,
    sgd,
    storages,
    train,
)

# M the model's state, O the optimizer's, B the Scheduler is built, S its state.
ORDERS = [
    "".join(order)
    for order in itertools.permutations("MOBS")
    if order.index("B") < order.index("S")
]
PAIRS = list(itertools.product(STORAGES, STORAGES))
# The harder ones first.
PAIRS.sort(key=lambda pair: pair[0] == pair[1])
METHODS = ("wr", "lrr+signin", "rigl")
OTHERS = ("lrr", "imp", "gmp", "acdc", "set", "rigl+signin")
Make = Callable[[Any], Optimizer]


def lookahead(parameters: Any) -> Any:
    """A wrapper that keeps a slow copy of every weight."""
    return Lookahead(torch.optim.SGD(parameters, lr=0.05, momentum=0.9), k=3)


def schedule_free(parameters: Any) -> Any:
    optimizer = schedulefree.SGDScheduleFree(parameters, lr=0.1, momentum=0.9)
    optimizer.train()
    return optimizer


def start(storage: str, method: str, make: Make) -> tuple[nn.Module, Any]:
    model = applied(storage, method, sparsity=0.4)
    return model, make(model.parameters())


def losses_from(
    model: nn.Module, optimizer: Any, scheduler: sparsify_fx.Scheduler, first: int
) -> list[float]:
    """Train to the end of the schedule, with the batches from `first` on."""
    losses: list[float] = []
    while not scheduler.finished:
        batch = digits()[(first + len(losses)) % len(digits())]
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(float(loss.detach()))
    return losses


@functools.cache
def whole(
    storage: str, method: str, make: Make
) -> tuple[list[float], dict[str, Tensor]]:
    """The losses and the weights of a training that nothing ended."""
    model, optimizer = start(storage, method, make)
    losses = losses_from(model, optimizer, scheduled(model, optimizer), 0)
    return losses, seen(model)


@functools.cache
def saved(storage: str, method: str, make: Make, steps: int) -> bytes:
    """What a checkpoint holds after some steps."""
    model, optimizer = start(storage, method, make)
    scheduler = scheduled(model, optimizer)
    train(model, optimizer, steps, scheduler)
    states = {"M": model.state_dict(), "O": optimizer.state_dict()}
    stream = io.BytesIO()
    torch.save(states | {"S": scheduler.state_dict()}, stream)
    return stream.getvalue()


def points(method: str) -> tuple[int, int]:
    """After the first snapshot and before the first pruning; after a pruning."""
    in_runs = method.partition("+")[0] in ("lrr", "wr", "imp")
    return (11, 27) if in_runs else (3, 14)


def resumed(storage: str, method: str, make: Make, file: bytes, order: str) -> Any:
    states = torch.load(io.BytesIO(file), weights_only=True)
    model, optimizer = start(storage, method, make)
    scheduler = None
    for what in order:
        if what == "B":
            scheduler = scheduled(model, optimizer)
        else:
            target = {"M": model, "O": optimizer, "S": scheduler}[what]
            assert target is not None
            target.load_state_dict(states[what])
    return model, optimizer, scheduler


def check(
    pair: tuple[str, str], method: str, make: Make, steps: int, order: str
) -> None:
    before, after = pair
    file = saved(before, method, make, steps)
    model, optimizer, scheduler = resumed(after, method, make, file, order)
    losses = losses_from(model, optimizer, scheduler, steps)
    assert storages(model) == {after}
    expected, weights = whole(after, method, make)
    if before == after:
        assert losses == expected[steps:]
        assert all(torch.equal(a, weights[n]) for n, a in seen(model).items())
    check_alike(expected[steps:], losses)
    masks = {name: mask for name, mask in weights.items() if name.endswith("mask")}
    assert all(torch.equal(seen(model)[name], mask) for name, mask in masks.items())


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@pytest.mark.parametrize("order", ["MOBS", "BSOM"])
def test_go_on_in_either_storage(pair: tuple[str, str], order: str) -> None:
    check(pair, "rigl+signin", adamw, 11, order)


@pytest.mark.cross_section("pair20-rigl")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("pair", "method"), crossed(PAIRS, [*METHODS, *OTHERS], len(METHODS))
)
def test_every_order_of_loading(pair: tuple[str, str], method: str) -> None:
    for steps, order in itertools.product(points(method), ORDERS):
        check(pair, method, sgd, steps, order)


@pytest.mark.cross_section("pair4-lookahead-lrr+signin")
@pytest.mark.slow
@pytest.mark.parametrize(
    "method", ["lrr+signin", *swept(("gmp", "acdc+signin", "set"))]
)
@pytest.mark.parametrize(
    ("pair", "make"), crossed(PAIRS, [adamw, lookahead, schedule_free], 3)
)
def test_other_optimizers(pair: tuple[str, str], method: str, make: Make) -> None:
    for steps, order in itertools.product(points(method), ("MOBS", "BSOM", "OBSM")):
        check(pair, method, make, steps, order)


@pytest.mark.parametrize("first", STORAGES)
def test_the_storage_changes_in_the_middle_of_a_training(first: str) -> None:
    """State of optimizers that have made a step follows at once."""
    results = []
    for swaps in (False, True):
        model = applied(first, "random", parameterization="product")
        optimizer = adamw(model.parameters())
        result = train(model, optimizer, 5)
        if swaps:
            (StoreFull() if first == "living" else StoreLiving())(model)
            assert storages(model) == set(STORAGES) - {first}
            for program in programs(model).values():
                for factor in program.factor_tensors().values():
                    assert optimizer.state[factor]["exp_avg"].shape == factor.shape
        result.losses += train(model, optimizer, 20).losses
        results.append(result)
    check_same_masks(results[0].model, results[1].model)
    check_alike(results[0].losses, results[1].losses)


def test_state_follows_a_model_that_is_loaded_alone() -> None:
    """With masks of the same size it would else be that of other entries, without a word."""
    states = []
    for seed in (0, 1):
        model = applied("living", "rigl", net=lambda: digit_net(0), seed=seed)
        states.append(copy.deepcopy(model.state_dict()))
    model = applied("living", "rigl")
    optimizer = sgd(model.parameters())
    train(model, optimizer, 3)
    program = programs(model)["6.weight"]
    buffer = lambda: program.restored(optimizer.state[program.dense]["momentum_buffer"])  # noqa: E731
    before, mask = buffer(), program.mask.clone()
    model.load_state_dict(states[1])
    both = (mask == 1) & (program.mask == 1)
    assert 0 < int(both.sum()) < int(mask.sum()), "the masks must differ"
    assert torch.equal(buffer()[both], before[both])
    assert not buffer()[~both].any()


def test_states_of_different_moments_are_refused() -> None:
    model = applied("living", "gmp")
    optimizer = sgd(model.parameters())
    scheduler = scheduled(model, optimizer)
    train(model, optimizer, 3, scheduler)
    early = copy.deepcopy(optimizer.state_dict())
    train(model, optimizer, 100, scheduler)
    optimizer.load_state_dict(early)
    # What the early state has more of would be that of other entries.
    with pytest.raises(SchedulerError, match=r"living entries.*saved together"):
        train(model, optimizer, 1)


def test_undo_takes_back_masks_of_step_zero() -> None:
    """A finished model whose script runs again, and is then given the state of the end."""
    for storage in STORAGES:
        model, optimizer = start(storage, "gmp", sgd)
        scheduler = scheduled(model, optimizer)
        losses_from(model, optimizer, scheduler, 0)
        state = scheduler.state_dict()
        before = seen(model)
        kept = copy.deepcopy(optimizer.state_dict()["state"])
        again = scheduled(model, optimizer)
        again.load_state_dict(state)
        now = optimizer.state_dict()["state"]
        assert all(torch.equal(a, before[n]) for n, a in seen(model).items())
        for number, entries in kept.items():
            momentum = entries["momentum_buffer"]
            assert torch.equal(momentum, now[number]["momentum_buffer"])
