"""Rewinds on real digits: after each one, weights, batch norm and optimizer state equal independent copies.

The copies are deep copies of model and optimizer, taken by the test at the rewind point, apart from the library's
snapshots.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.learning_rate import CosineWarmup
from sparsify_fx.owners import programs
from sparsify_fx.zoo.data import load_data
from sparsify_fx.zoo.models import build_model
from tests.conftest import effective

EPOCHS, STEPS, WARMUP = 2, 5, 1
SPARSITY = 1 - 0.8**3


def states_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, torch.Tensor]]:
    """The optimizer's tensors by parameter name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: {k: v for k, v in s.items() if v is not None} for p, s in optimizer.state.items()}


@pytest.mark.parametrize("method", ["imp", "wr", "lrr", "lrr-bn", "signin+wr", "lrr+signin"])
def test_each_cycle_starts_from_what_the_method_says(method: str) -> None:
    torch.manual_seed(0)
    data = load_data("mnist5k")
    model = build_model("lenet5-bn", num_classes=10, in_channels=1, image_size=28)
    sparsify_fx.apply(model, method, sparsity=SPARSITY, actions=())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    copies = {0: (copy.deepcopy(model), {})}
    scheduler = sparsify_fx.Scheduler(
        model, optimizer, epochs=EPOCHS, steps_per_epoch=STEPS, learning_rate=CosineWarmup(WARMUP)
    )
    batches = [batch for epoch in range(4) for batch in data.epoch(128, train=True, epoch=epoch)]
    while not scheduler.finished:
        inputs, labels = batches[scheduler.step_count]
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        before = copy.deepcopy(model), copy.deepcopy(states_of(model, optimizer))
        if scheduler.step_count + 1 == WARMUP * STEPS:
            copies[WARMUP] = before
        starts_run = scheduler.ends_run
        scheduler.step()
        if starts_run and not scheduler.finished:
            check(method, model, states_of(model, optimizer), copies, before)
    assert scheduler.nonzeros() == round(0.8**3 * scheduler.total_weights)


def check(
    method: str,
    model: nn.Module,
    state: dict[str, dict[str, torch.Tensor]],
    copies: dict[int, tuple[nn.Module, dict[str, dict[str, torch.Tensor]]]],
    before: tuple[nn.Module, dict[str, dict[str, torch.Tensor]]],
) -> None:
    rewinds_to = {"imp": 0, "wr": WARMUP, "signin+wr": WARMUP}.get(method)
    start = before[0] if rewinds_to is None else copies[rewinds_to][0]
    masks = {name: program.current_mask() for name, program in programs(model).items()}
    assert any((mask == 0).any() for mask in masks.values())

    for name, weight in effective(model).items():
        theta = programs(start)[name].theta()
        assert torch.equal(weight, theta * masks[name]), f"{method}: {name}"
    norms = copies[WARMUP][0] if method == "lrr-bn" else start
    program_names = [f"{name}_program" for name in masks]
    for key, value in model.state_dict().items():
        if any(key.startswith(program) for program in program_names):
            continue
        is_norm = isinstance(model.get_submodule(key.rpartition(".")[0]), nn.modules.batchnorm._BatchNorm)
        assert torch.equal(value, (norms if is_norm else start).state_dict()[key]), f"{method}: {key}"

    if rewinds_to != WARMUP:
        assert not state, "a fresh optimizer"
        return
    recorded = copies[WARMUP][1]
    assert set(state) == set(recorded)
    for key, values in recorded.items():
        layer = next((name for name in masks if key.startswith(f"{name}_program")), None)
        for field, value in values.items():
            expected = value if layer is None else value * masks[layer]
            assert torch.equal(state[key][field], expected), f"{method}: {field} of {key}"
            assert value.any(), "a comparison of zeros would show nothing"
