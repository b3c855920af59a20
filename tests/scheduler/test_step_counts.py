"""A Scheduler that is not called once after each optimizer step says so, once."""

from __future__ import annotations

import contextlib
import gc
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import sparsify_fx
from sparsify_fx.errors import SchedulerError, StepCountWarning
from tests.conftest import small_net, train_step


def make(
    steps: int = 12, optimizers: int = 1
) -> tuple[nn.Module, list[torch.optim.Optimizer], sparsify_fx.Scheduler]:
    model = sparsify_fx.apply(small_net(), "gmp", sparsity=0.5)
    parameters = list(model.parameters())
    made = [
        torch.optim.SGD(parameters[i::optimizers], lr=0.1) for i in range(optimizers)
    ]
    given = made if optimizers > 1 else made[0]
    return (
        model,
        made,
        sparsify_fx.Scheduler(model, given, epochs=4, steps_per_epoch=steps),
    )  # type: ignore[arg-type]


def told(pattern: str, optimizers: int = 1, steps: int = 12) -> list[str]:
    """The warnings of a loop: o is a step of the first optimizer, O of all, s a call of the Scheduler, w a saving."""
    model, made, scheduler = make(steps, optimizers)
    train_step(model, torch.optim.SGD(model.parameters(), lr=0.0))  # gradients
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for letter in pattern:
            for optimizer in (
                made if letter == "O" else made[:1] if letter == "o" else ()
            ):
                optimizer.step()
            if letter == "s":
                scheduler.step()
            elif letter == "w":
                scheduler.state_dict()
    assert {warning.category for warning in caught} <= {StepCountWarning}
    assert all(warning.filename == __file__ for warning in caught)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    "pattern",
    [
        "os" * 40,
        "w" + "osw" * 10,
        "s" * 40,  # nothing trains
        "ossos" + "os" * 20,  # a step that a gradient scaler skipped
        "sssos" + "os" * 20,
    ],
)
def test_a_call_after_each_step_is_right(pattern: str) -> None:
    assert told(pattern) == []


def test_steps_without_a_call() -> None:
    (message,) = told("os" * 3 + "ooooos" * 4)
    assert message.startswith(
        "the optimizer made 5 steps since the last call of scheduler.step()"
    )


def test_calls_without_a_step() -> None:
    (message,) = told("osss" * 12)
    assert message.startswith(
        "the optimizer made 4 steps in the last 12 calls of scheduler.step()"
    )
    assert "steps_per_epoch is batches / accumulation" in message
    (message,) = told("osss" * 3, steps=3)
    assert message.startswith("the optimizer made 3 steps in the last 8 calls")


def test_a_state_between_the_two() -> None:
    (message,) = told("osows" * 3)
    assert "save after scheduler.step()" in message


def test_of_several_optimizers_the_slowest_counts() -> None:
    assert told("Os" * 20, optimizers=2) == []
    assert told("Ooos" * 20, optimizers=2) == [], (
        "the first makes three steps for each of the second"
    )
    assert len(told("OOs" * 20, optimizers=2)) == 1


def test_a_scheduler_that_is_gone_counts_no_more() -> None:
    model, (optimizer,), scheduler = make()
    hooks = optimizer._optimizer_step_post_hooks
    assert len(hooks) == 1
    del scheduler
    gc.collect()
    assert len(hooks) == 0
    train_step(model, optimizer)


def test_the_count_begins_anew_after_loading() -> None:
    model, (optimizer,), scheduler = make()
    state = scheduler.state_dict()
    for _ in range(3):
        train_step(model, optimizer)
    scheduler.load_state_dict(state)
    train_step(model, optimizer)
    scheduler.step()


def test_steps_that_raise_are_not_counted() -> None:
    model, (optimizer,), scheduler = make(steps=1)
    for _ in range(4):
        train_step(model, optimizer)
        scheduler.step()
    train_step(model, optimizer)
    with pytest.raises(SchedulerError, match="the schedule ended after 4 steps"):
        scheduler.step()


class Twice(torch.optim.AdamW):
    """Calls the step that it inherits, around which torch runs the hooks again."""

    fails = False

    def step(self, closure: Any = None) -> Any:
        if self.fails:
            raise ValueError("this step fails")
        return super().step(closure)


def test_a_step_within_a_step_is_one() -> None:
    model = sparsify_fx.apply(small_net(), "gmp", sparsity=0.5)
    torch.optim.AdamW(
        [nn.Parameter(torch.zeros(1))]
    )  # the first of a class brings the hooks to its `step`
    optimizer = Twice(model.parameters(), lr=1e-3)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=4, steps_per_epoch=3)
    for step in range(4):
        optimizer.fails = step == 1
        with (
            pytest.raises(ValueError, match="this step fails")
            if optimizer.fails
            else contextlib.nullcontext()
        ):
            train_step(model, optimizer)
        scheduler.step()
    train_step(model, optimizer)
    train_step(model, optimizer)
    with pytest.warns(StepCountWarning, match="made 2 steps"):
        scheduler.step()
