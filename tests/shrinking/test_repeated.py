"""The same cut once more: of an average, of a model that is built anew; and what state and optimizers go with it."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import sparsify_fx
from sparsify_fx.errors import LayerError, SchedulerError
from sparsify_fx.scheduler import Scheduler
from sparsify_fx.shrinking import Shrunk, shrink

X = torch.linspace(-1, 1, 8 * 3 * 8 * 8).reshape(8, 3, 8, 8).sin()
Y = torch.arange(8) % 5
Training = tuple[nn.Module, torch.optim.Optimizer, Scheduler]


def begun() -> Training:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )
    sparsify_fx.apply(
        model, "gmp", sparsity=0.5, granularity="channel", example_inputs=X
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    return model, optimizer, Scheduler(model, optimizer, epochs=8, steps_per_epoch=3)


def train(training: Training, steps: int) -> None:
    model, optimizer, scheduler = training
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model.train()(X), Y).backward()
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("times", [1, 2])
def test_a_training_of_a_shrunk_model_resumes(times: int) -> None:
    # 1. A training that shrinks its model, and writes a checkpoint.
    first = begun()
    cuts = list[Shrunk]()
    for _ in range(times):
        train(first, 9)
        model, optimizer, scheduler = first
        cuts.append(shrink(model, X, optimizer, scheduler))
    assert all(each.changed for each in cuts)
    train(first, 2)
    saved = copy.deepcopy([part.state_dict() for part in first])
    maps = json.loads(json.dumps([each.to_dict() for each in cuts]))

    # 2. In another process: built anew, cut alike, and loaded.
    second = begun()
    for stored in maps:
        shrink(second[0], X, *second[1:], like=Shrunk.from_dict(stored))
    for part, state in zip(second, saved, strict=True):
        part.load_state_dict(state)

    # 3. Both end alike.
    for training in (first, second):
        train(training, 24 - 9 * times - 2)
    for one, other in zip(first[0].parameters(), second[0].parameters(), strict=True):
        assert torch.equal(one, other)
    assert second[2].at_sparsity


def test_an_average_is_cut_alike() -> None:
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    average = AveragedModel(model)
    model[2].weight.data[:, 8:] = 0
    report = shrink(model, torch.randn(1, 4))
    again = shrink(average.module, torch.randn(1, 4), like=report)
    average.update_parameters(model)
    assert average.module[0].weight.shape == (8, 4)
    assert again.parameters == report.parameters == (114, 58)


def test_the_schedules_own_optimizer_is_cut() -> None:
    training = begun()
    train(training, 12)
    shrink(training[0], X, scheduler=training[2])
    train(training, 3)


def test_other_models_are_refused_and_stay() -> None:
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    model[2].weight.data[:, 8:] = 0
    report = shrink(model, torch.randn(1, 4))
    with pytest.raises(LayerError, match=r"\(8, 4\) here, and \(16, 4\)"):
        shrink(model, torch.randn(1, 4), like=report)
    with pytest.raises(LayerError, match="like= is a dict"):
        shrink(model, torch.randn(1, 4), like=report.to_dict())
    assert model[0].weight.shape == (8, 4)


def test_an_optimizer_of_other_parameters_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.SGD(copy.deepcopy(model).parameters(), 0.1)
    model[2].weight.data[:, 8:] = 0
    with pytest.raises(LayerError, match="the SGD holds no parameter of the model"):
        shrink(model, torch.randn(1, 4), optimizer)
    assert model[0].weight.shape == (16, 4)


def test_another_schedule_is_still_told_apart() -> None:
    first, second = begun(), begun()
    train(first, 12)
    shrink(*first[:1], X, *first[1:])
    with pytest.raises(SchedulerError, match="the saved schedule is another one"):
        second[2].load_state_dict(first[2].state_dict())


class OneOutput(nn.Module):
    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        images = isinstance(last, nn.Conv2d)
        self.first = nn.Conv2d(3, 16, 1) if images else nn.Linear(3, 16)
        self.last = last
        self.last.weight.data[:, ::2] = 0

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(self.first(x).relu())
        return found


@pytest.mark.parametrize("last", [nn.Linear(16, 1), nn.Conv2d(16, 1, 1)], ids=str)
def test_a_single_output_keeps_its_zeros(last: nn.Module) -> None:
    model = OneOutput(last)
    x = torch.randn(2, 3, 4, 4) if isinstance(last, nn.Conv2d) else torch.randn(2, 3)
    expected, fresh = model(x), copy.deepcopy(model)
    report = Shrunk.from_dict(shrink(model, x).to_dict())
    fresh.load_state_dict(report.full_state_dict(model))
    torch.testing.assert_close(fresh(x), expected)
    report.undo(model)
    torch.testing.assert_close(model(x), expected)
    assert model.last.weight.flatten()[::2].abs().max() == 0
