"""Weights that are zero and not pruned: layers that start so, and channels that have just come back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import sparsify_fx
from sparsify_fx.programs.owners import programs
from sparsify_fx.shrinking import shrink

X = torch.linspace(-1, 1, 96).reshape(8, 12).sin()


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(12, 32),
        nn.ReLU(),
        nn.Linear(32, 32),
        nn.ReLU(),
        nn.Linear(32, 4),
    )


def living(model: nn.Module) -> int:
    return sum(
        int(program.current_mask().sum()) for program in programs(model).values()
    )


def test_a_head_of_zeros_reads_what_its_mask_keeps() -> None:
    model = net()
    nn.init.zeros_(model[4].weight)
    sparsify_fx.apply(
        model,
        "magnitude",
        schedule="at-init",
        sparsity=0.5,
        granularity="channel",
        example_inputs=X,
    )
    kept = living(model)
    shrink(model, X)
    # All that lives is there, beside biases.
    assert living(model) == kept
    sizes = [program.full_shape().numel() for program in programs(model).values()]
    assert sum(sizes) == kept


def test_a_dense_head_of_zeros_is_told() -> None:
    model = net()
    nn.init.zeros_(model[4].weight)
    report = shrink(model, X)
    assert "4.weight is zero everywhere" in report.notes[0]


def test_channels_that_have_just_grown_stay() -> None:
    model = net()
    sparsify_fx.apply(
        model, "set", sparsity=0.5, granularity="channel", example_inputs=X
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=6, steps_per_epoch=3)
    for _ in range(9):
        optimizer.zero_grad()
        F.cross_entropy(model(X), torch.arange(8) % 4).backward()
        optimizer.step()
        scheduler.step()
        kept = living(model)
        shrink(model, X, optimizer, scheduler)
        assert living(model) == kept
