"""A default device that is not the model's changes nothing: meta stands for a GPU here, and holds no data."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import sparsify_fx
from tests.common import swept

METHODS = ["lrr+signin", "rigl", "random", *swept(["signin", "l0", "obd", "snip"])]


def _trained(method: str, storage: str, net: nn.Module) -> dict[str, torch.Tensor]:
    inputs = torch.ones(8, 8, 8, 8, device="cpu")
    targets = torch.zeros(8, dtype=torch.int64, device="cpu")
    loss_fn = nn.functional.cross_entropy
    model = sparsify_fx.apply(
        copy.deepcopy(net),
        method,
        sparsity=0.36,
        storage=storage,
        batches=[(inputs, targets)],
        loss_fn=loss_fn,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=1, steps_per_epoch=8)
    for _ in range(8 * scheduler.epochs):
        optimizer.zero_grad()
        loss = loss_fn(model(inputs), targets) + scheduler.penalty()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return sparsify_fx.dense_state_dict(model)


@pytest.mark.parametrize("storage", ["full", "living"])
@pytest.mark.parametrize("method", METHODS)
def test_training_is_where_the_model_is(method: str, storage: str) -> None:
    # Large enough for living storage to keep its memory, and for linear layers in blocks.
    net = nn.Sequential(
        nn.Conv2d(8, 64, 3), nn.Flatten(), nn.Linear(2304, 32), nn.Linear(32, 10)
    )
    wanted = _trained(method, storage, net)
    torch.set_default_device("meta")
    try:
        found = _trained(method, storage, net)
    finally:
        torch.set_default_device(None)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
