"""Masks, rescales, rewinds and learning rates change in place: torch.compile makes one graph for a whole schedule."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.masks import kept_count
from tests.conftest import batch, small_net

pytestmark = pytest.mark.slow


@pytest.mark.cross_section("lrr+signin-inductor")
@pytest.mark.parametrize(
    ("method", "backend"),
    [
        ("lrr+signin", "inductor"),
        ("signin+wr", "aot_eager"),
        ("imp", "aot_eager"),
        ("lrr-bn", "aot_eager"),
    ],
)
def test_a_whole_schedule_is_one_graph(method: str, backend: str) -> None:
    torch.compiler.reset()
    counters.clear()
    model = sparsify_fx.apply(small_net(), method, sparsity=0.7)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=4, steps_per_epoch=2)
    train = torch.compile(model, fullgraph=True, backend=backend)
    after_first_epoch = None
    for epoch in range(scheduler.epochs):
        for _ in range(2):
            inputs, labels = batch(scheduler.step_count)
            loss = F.cross_entropy(train(inputs), labels) + scheduler.penalty()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
        if epoch == 0:
            after_first_epoch = counters["stats"]["unique_graphs"]
    assert after_first_epoch == 1
    assert counters["stats"]["unique_graphs"] == 1
    assert scheduler.epochs > 4
    assert scheduler.nonzeros() == kept_count(scheduler.total_weights, 0.7)
    torch.testing.assert_close(train(inputs), model(inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.cross_section("str")
@pytest.mark.parametrize("method", ["str", "cs", "l0", "pilot"])
def test_thresholds_temperatures_noise_and_strengths_are_one_graph(method: str) -> None:
    torch.compiler.reset()
    counters.clear()
    model = sparsify_fx.apply(small_net(), method, sparsity=0.7)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=10, steps_per_epoch=2)
    train = torch.compile(model, fullgraph=True, backend="aot_eager")
    while not scheduler.finished:
        inputs, labels = batch(scheduler.step_count)
        outputs = train(inputs)
        torch.testing.assert_close(outputs, model(inputs), rtol=1e-4, atol=1e-5)
        (F.cross_entropy(outputs, labels) + scheduler.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.observe(accuracy=0.5)
        scheduler.step()
        assert counters["stats"]["unique_graphs"] == 1
    assert scheduler.nonzeros() == kept_count(scheduler.total_weights, 0.7)
