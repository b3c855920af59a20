"""What actions and adaptive penalties are told: run length, progress, optimizer and the last accuracy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

import sparsify_fx
from sparsify_fx.actions import Occasion
from sparsify_fx.penalties import Observation
from sparsify_fx.programs.program import WeightProgram
from tests.conftest import small_net, train_step


@dataclass(frozen=True)
class Listens:
    """An action at the start of every epoch that keeps what it is told."""

    told: list[Occasion] = field(default_factory=list)

    def epochs(self, run_epochs: int, run: int = 0, runs: int = 1) -> list[int]:
        return list(range(run_epochs))

    def __call__(self, model: nn.Module, occasion: Occasion) -> None:
        self.told.append(occasion)


@dataclass(frozen=True)
class Fades:
    """A penalty whose strength falls with the progress of the run and follows the optimizer's rate."""

    told: list[Observation] = field(default_factory=list)
    strength: float = 1.0
    every_epoch: ClassVar[bool] = True

    def __call__(
        self, programs: Iterable[WeightProgram], strength: Tensor | None = None
    ) -> Tensor:
        return (1.0 if strength is None else strength) * torch.stack(
            [p().abs().sum() for p in programs]
        ).sum()

    def adapt(
        self, level: float, before: Observation | None, now: Observation
    ) -> tuple[float, float]:
        assert now.occasion is not None
        self.told.append(now)
        return level, (1 - now.occasion.progress) * now.occasion.optimizer.param_groups[
            0
        ]["lr"]


def trained(
    stop: int | None = None, accuracy: bool = True
) -> tuple[Listens, Fades, nn.Module, torch.optim.Optimizer, sparsify_fx.Scheduler]:
    action, penalty = Listens(), Fades()
    model = sparsify_fx.apply(
        small_net(), "lrr", sparsity=0.3, actions=[action], penalty=penalty
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    given = {"epochs": 4, "steps_per_epoch": 2, "learning_rate": "constant"}
    scheduler = sparsify_fx.Scheduler(model, optimizer, **given)
    while not scheduler.finished and scheduler.step_count != stop:
        advance(model, optimizer, scheduler, accuracy)
    return action, penalty, model, optimizer, scheduler


def advance(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: sparsify_fx.Scheduler,
    accuracy: bool,
) -> None:
    train_step(model, optimizer, scheduler.step_count)
    if accuracy and scheduler.step_count % 4 == 3:  # after every second epoch
        scheduler.observe(accuracy=scheduler.step_count / 100)
    scheduler.step()


def test_an_action_is_told_where_it_is() -> None:
    action, _, _, optimizer, scheduler = trained()
    first, lengths = action.told[:4], {told.length for told in action.told}
    assert [told.progress for told in first] == [0.0, 0.25, 0.5, 0.75]
    assert lengths == {4}
    assert {told.runs for told in action.told} == {scheduler.epochs // 4}
    assert all(told.optimizer is optimizer for told in action.told)
    assert [told.accuracy for told in first] == [None, None, 0.03, 0.03]
    assert action.told[4].accuracy == 0.07, "the last one of the run before"


def test_without_a_scheduler_there_is_no_optimizer() -> None:
    occasion = Occasion(run=0, epoch=0, seed=0)
    assert occasion.optimizer is None
    assert occasion.accuracy is None


def test_the_random_numbers_of_an_occasion_stay_what_they_were() -> None:
    drawn = torch.rand(2, generator=Occasion(1, 0, 7).generator("x"))
    told = torch.rand(
        2, generator=Occasion(1, 0, 7, length=9, accuracy=0.5).generator("x")
    )
    assert torch.equal(drawn, told)


def test_a_penalty_is_told_too_and_its_strength_follows() -> None:
    _, penalty, _, optimizer, scheduler = trained(stop=6)
    occasions = [told.occasion for told in penalty.told]
    assert [o.progress for o in occasions if o] == [0.25, 0.5, 0.75]
    assert [o.accuracy for o in occasions if o] == [None, 0.03, 0.03]
    assert [told.accuracy for told in penalty.told] == [None, 0.03, None], (
        "that of the last epoch alone"
    )
    assert scheduler.strength == pytest.approx(0.25 * optimizer.param_groups[0]["lr"])


def test_the_last_accuracy_is_resumed_and_the_optimizer_is_in_no_state() -> None:
    _, _, model, optimizer, scheduler = trained(stop=5)
    saved = scheduler.state_dict()
    assert "occasion" not in saved["strengths"]["before"]
    action, penalty, twin, other, resumed = trained(stop=0)
    twin.load_state_dict(model.state_dict())
    other.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(saved)
    action.told.clear()
    advance(twin, other, resumed, accuracy=False)
    (told,) = action.told
    assert (told.progress, told.accuracy) == (0.75, 0.03)
    assert told.optimizer is other
    assert penalty.told[-1].accuracy is None
