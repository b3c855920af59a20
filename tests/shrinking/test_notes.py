"""What shrink says of a cut that no error tells."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsify_fx

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)),
    )


def half(model: nn.Module, example: Tensor, sparsity: float = 0.4) -> nn.Module:
    return sparsify_fx.apply(
        model,
        "magnitude",
        sparsity=sparsity,
        granularity="channel",
        schedule="at-init",
        example_inputs=example,
    )


class Losses(nn.Module):
    """Computes its loss while it trains: of the targets, and of what the layers between make."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor, *targets: Tensor) -> Tensor:
        y = self.body(x).relu()
        found: Tensor = self.head(y)
        if self.training:
            return F.cross_entropy(found, targets[0]) + y.square().mean()
        return found


def test_training_that_cannot_be_tried() -> None:
    x = torch.randn(6, 8)
    notes = sparsify_fx.shrink(half(Losses(), x), x).notes
    assert len(notes) == 1
    assert "training mode cannot be run at the example inputs (IndexError" in notes[0]


def test_one_sample_is_too_few_for_a_norm_in_training() -> None:
    net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))  # fmt: skip
    notes = sparsify_fx.shrink(half(net, torch.ones(1, 8)), torch.ones(1, 8)).notes
    assert "Expected more than 1 value per channel" in notes[0]
    again = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))  # fmt: skip
    several = torch.randn(3, 8)
    assert sparsify_fx.shrink(half(again, several), several).notes == ()


class Tasks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 16, 3, padding=1)
        self.more = nn.Conv2d(16, 16, 3, padding=1)
        self.other = nn.Linear(7, 9)
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x).relu()
        found: Tensor = self.head(self.more(y) if x.shape[-1] > 8 else y)
        return found


def test_layers_that_the_example_does_not_reach() -> None:
    (note,) = sparsify_fx.shrink(half(Tasks(), IMAGES, 0.1), IMAGES).notes
    assert "do not reach more.weight:" in note


@pytest.mark.parametrize("method", ["set", "acdc"])
def test_what_was_cut_cannot_come_back(method: str) -> None:
    net = convolutions()
    sparsify_fx.apply(
        net, method, sparsity=0.5, granularity="channel", example_inputs=IMAGES
    )
    optimizer = torch.optim.SGD(net.parameters(), 0.02)
    scheduler = sparsify_fx.Scheduler(net, optimizer, epochs=20, steps_per_epoch=1)
    for _ in range(6):
        net(IMAGES).square().mean().backward()
        optimizer.step()
        scheduler.step()
    (note,) = sparsify_fx.shrink(net, IMAGES, optimizer, scheduler).notes
    assert note.startswith(f"{method} brings dead channels")


def test_a_pattern_loses_its_groups() -> None:
    net = half(convolutions(), IMAGES)
    sparsify_fx.merge(net)
    sparsify_fx.apply(
        net,
        "magnitude",
        sparsity=0.5,
        granularity="2:4",
        schedule="at-init",
        exclude="0.*",
    )
    (note,) = sparsify_fx.shrink(net, IMAGES).notes
    assert note.startswith("2.weight, 6.weight lost channels from within a pattern")
