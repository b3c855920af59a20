"""Snapshots of optimizer state: what was recorded comes back in place, counters and copies too, and rates stay."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_optimizer
import schedulefree
import timm.optim
import torch
from torch import nn

import sparsify_fx
from sparsify_fx.errors import SchedulerError
from sparsify_fx.optimizer_states import restore_optimizer_state, take_optimizer_state
from tests.conftest import small_net, train_step

Build = Callable[[list[nn.Parameter]], Any]
BUILDS: dict[str, Build] = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9),
    "adam": lambda ps: torch.optim.Adam(ps, lr=torch.tensor(0.01), amsgrad=True),
    "adagrad": lambda ps: torch.optim.Adagrad(ps, lr=0.1),
    "nadam": lambda ps: torch.optim.NAdam(ps, lr=0.01),
    "schedule-free": lambda ps: schedulefree.AdamWScheduleFree(
        ps, lr=0.05, warmup_steps=2
    ),
    "schedule-free wrapper": lambda ps: schedulefree.ScheduleFreeWrapper(
        torch.optim.SGD(ps, lr=0.1)
    ),
    "timm lamb": lambda ps: timm.optim.create_optimizer_v2(ps, opt="lamb", lr=0.01),
    "timm adan": lambda ps: timm.optim.create_optimizer_v2(ps, opt="adan", lr=0.01),
    "timm lookahead": lambda ps: timm.optim.create_optimizer_v2(
        ps, opt="lookahead_adamw", lr=0.01
    ),
    "lookahead": lambda ps: pytorch_optimizer.Lookahead(
        torch.optim.SGD(ps, lr=0.1, momentum=0.9), k=2
    ),
    "trac": lambda ps: pytorch_optimizer.TRAC(torch.optim.Adam(ps, lr=0.01)),
    "prodigy": lambda ps: pytorch_optimizer.load_optimizer("prodigy")(ps),
    "aggmo": lambda ps: pytorch_optimizer.load_optimizer("aggmo")(ps, lr=0.01),
    "adashift": lambda ps: pytorch_optimizer.load_optimizer("adashift")(ps, lr=0.01),
    "madgrad": lambda ps: pytorch_optimizer.load_optimizer("madgrad")(ps, lr=0.01),
    "shampoo": lambda ps: pytorch_optimizer.load_optimizer("scalableshampoo")(
        ps, lr=0.01
    ),
    "magma": lambda ps: pytorch_optimizer.load_optimizer("magma")(ps, lr=0.01),
}


def weights_of(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def through_a_file(recorded: Any) -> Any:
    file = io.BytesIO()
    torch.save(recorded, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def tensors_in(recorded: Any) -> list[torch.Tensor]:
    """Every tensor of a record, in order; its numbers too."""
    if isinstance(recorded, (torch.Tensor, int, float)):
        return [torch.as_tensor(recorded)]
    inner = (
        recorded.values()
        if isinstance(recorded, dict)
        else recorded
        if isinstance(recorded, (list, tuple))
        else ()
    )
    return [tensor for value in inner for tensor in tensors_in(value)]


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("first", [0, 3])
def test_the_same_batches_give_the_same_bits_again(name: str, first: int) -> None:
    model = small_net()
    optimizer = BUILDS[name](list(model.parameters()))
    if hasattr(optimizer, "train"):
        optimizer.train()

    def steps(start: int, stop: int) -> None:
        for step in range(start, stop):
            torch.manual_seed(step)
            train_step(model, optimizer, seed=step)

    steps(0, first)
    weights, rates = (
        weights_of(model),
        [group["lr"] for group in optimizer.param_groups],
    )
    norms = [buffer.clone() for buffer in model.buffers()]
    recorded = through_a_file(
        take_optimizer_state([optimizer], list(model.parameters()))
    )
    steps(first, first + 4)
    ends, state = (
        weights_of(model),
        take_optimizer_state([optimizer], list(model.parameters())),
    )
    with torch.no_grad():
        for now, then in zip(
            [*model.parameters(), *model.buffers()], [*weights, *norms], strict=True
        ):
            now.copy_(then)
    restore_optimizer_state([optimizer], list(model.parameters()), recorded)
    assert all(
        group["lr"] is rate
        for group, rate in zip(optimizer.param_groups, rates, strict=True)
    )
    steps(first, first + 4)
    tensors, again = (
        tensors_in(state),
        tensors_in(take_optimizer_state([optimizer], list(model.parameters()))),
    )
    assert len(tensors) == len(again) >= len(ends)
    for one, two in zip([*tensors, *ends], [*again, *weights_of(model)], strict=True):
        assert torch.equal(one, two)
    before = tensors_in(recorded)
    assert len(before) != len(tensors) or not all(
        torch.equal(a, b) for a, b in zip(before, tensors, strict=True)
    )


def test_the_runs_of_imp_are_alike_under_schedule_free() -> None:
    """Counters that went on while the weights went back made the loss grow from run to run."""
    model = small_net()
    sparsify_fx.apply(
        model, "imp", sparsity=1 - 0.8**3, schedule={"name": "cycles", "keep": 0.8}
    )
    optimizer = schedulefree.SGDScheduleFree(model.parameters(), lr=0.5, momentum=0.9)
    optimizer.train()
    scheduler = sparsify_fx.Scheduler(
        model, optimizer, epochs=2, steps_per_epoch=10, learning_rate="constant"
    )
    losses: dict[int, list[float]] = {}
    while not scheduler.finished:
        run = losses.setdefault(scheduler.run, [])
        run.append(float(train_step(model, optimizer, seed=len(run) % 3)))
        scheduler.step()
    lasts = [sum(run[-5:]) / 5 for run in losses.values()]
    assert len(lasts) == 4
    assert max(lasts) < lasts[0] + 0.1, lasts


def test_copies_of_weights_that_stay_are_not_pulled_back() -> None:
    model = small_net()
    optimizer = pytorch_optimizer.Lookahead(
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), k=2
    )
    parameters = list(model.parameters())
    recorded = take_optimizer_state([optimizer], parameters)
    for step in range(3):
        train_step(model, optimizer, seed=step)
    weights = weights_of(model)
    restore_optimizer_state(
        [optimizer], parameters, recorded
    )  # as lrr does: the weights are the learned ones
    for parameter, weight in zip(parameters, weights, strict=True):
        assert torch.equal(parameter, weight)
        assert torch.equal(optimizer.state[parameter]["slow_params"], weight)
        assert not optimizer.optimizer.state.get(parameter)


def test_only_the_named_parameters_are_rewound() -> None:
    model = small_net()
    first, *others = list(model.parameters())
    optimizer = torch.optim.Adam([{"params": [first]}, {"params": others}], lr=0.01)
    train_step(model, optimizer)
    recorded = take_optimizer_state([optimizer], [first])
    averages = [optimizer.state[p]["exp_avg"] for p in (first, others[0])]
    then = averages[0].clone()
    train_step(model, optimizer)
    now = averages[1].clone()
    restore_optimizer_state([optimizer], [first], recorded)
    assert optimizer.state[first]["exp_avg"] is averages[0], "in place"
    assert torch.equal(averages[0], then)
    assert torch.equal(averages[1], now)
    assert [float(optimizer.state[p]["step"]) for p in (first, others[0])] == [1, 2]


def test_counters_of_a_group_belong_to_all_of_it() -> None:
    model = small_net()
    first, *others = list(model.parameters())
    optimizer = schedulefree.SGDScheduleFree(
        [{"params": [first]}, {"params": others}], lr=0.1
    )
    optimizer.train()
    recorded = take_optimizer_state([optimizer], [first, others[0]])
    train_step(model, optimizer)
    restore_optimizer_state([optimizer], [first, others[0]], recorded)
    assert [group["k"] for group in optimizer.param_groups] == [0, 1]
    assert first not in optimizer.state
    assert others[1] in optimizer.state


def test_a_mode_that_changed_in_between_is_kept() -> None:
    model = small_net()
    optimizer = schedulefree.SGDScheduleFree(model.parameters(), lr=0.1)
    optimizer.train()
    for step in range(3):
        train_step(model, optimizer, seed=step)
    recorded, weights = (
        take_optimizer_state([optimizer], list(model.parameters())),
        weights_of(model),
    )
    optimizer.eval()
    with torch.no_grad():
        for parameter, weight in zip(model.parameters(), weights, strict=True):
            parameter.copy_(weight)
    restore_optimizer_state([optimizer], list(model.parameters()), recorded)
    assert not optimizer.param_groups[0]["train_mode"]
    optimizer.train()
    for parameter, weight in zip(model.parameters(), weights, strict=True):
        torch.testing.assert_close(parameter.detach(), weight)


def test_a_record_of_other_optimizers_is_refused() -> None:
    model = small_net()
    adam, sgd = (
        torch.optim.Adam(model.parameters()),
        torch.optim.SGD(model.parameters(), lr=0.1),
    )
    recorded = take_optimizer_state([adam], list(model.parameters()))
    with pytest.raises(
        SchedulerError,
        match=r"recorded state is that of the optimizers .*Adam.*here are .*SGD",
    ):
        restore_optimizer_state([sgd], list(model.parameters()), recorded)
