"""Shrinking in the middle of a training: programs, masks, optimizers and schedules go on with smaller weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsify_fx
from sparsify_fx.errors import LayerError, SchedulerError
from sparsify_fx.programs.owners import current_masks, programs
from sparsify_fx.rewinds import Rewind
from tests.conftest import effective
from tests.coupling.nets import made


def trained(
    net: nn.Module, inputs: Tensor, optimizer: Any, scheduler: Any, steps: int
) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        net(inputs).square().mean().backward()
        optimizer.step()
        scheduler.step()


def started(method: str, **options: Any) -> tuple[nn.Module, Tensor]:
    net, inputs = made("residual")
    options = {"sparsity": 0.5, "granularity": "channel"} | options
    sparsify_fx.apply(net, method, example_inputs=inputs, **options)
    return net, inputs


@pytest.mark.parametrize("method", ["gmp", "gmp+signin"])
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_a_step_after_it_is_that_of_the_whole_model(method: str, kind: str) -> None:
    net, inputs = started(method)
    make = {
        "sgd": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9),
        "adam": lambda p: torch.optim.Adam(p, 0.01),
    }[kind]
    optimizer = make(net.parameters())
    scheduler = sparsify_fx.Scheduler(
        net, optimizer, epochs=4, steps_per_epoch=2, learning_rate=None
    )
    trained(net, inputs, optimizer, scheduler, 7)
    whole = copy.deepcopy(net)
    twin = make(whole.parameters())
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    before = net(inputs)
    shrunk = sparsify_fx.shrink(net, inputs, optimizer, scheduler=scheduler)
    assert shrunk.parameters[1] < 0.8 * shrunk.parameters[0]
    assert torch.allclose(net(inputs), before, atol=1e-5)
    for model, one in ((net, optimizer), (whole, twin)):
        one.zero_grad()
        model(inputs).square().mean().backward()
        one.step()
    large = effective(whole)
    for name, value in effective(net).items():
        expected = large[name]
        for axis, index in shrunk.kept.get(name, {}).items():
            expected = expected.index_select(axis, index)
        assert torch.allclose(value, expected, rtol=1e-4, atol=1e-6), name


def test_cycles_go_on_with_the_smaller_model() -> None:
    """Channels go cycle by cycle, the weights rewind, and each cycle trains a smaller model."""
    net, inputs = started("lrr", rewind=Rewind(weights=0), sparsity=0.6)
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
    scheduler = sparsify_fx.Scheduler(net, optimizer, epochs=2, steps_per_epoch=2)
    total = sum(p.full_shape().numel() for p in programs(net).values())
    sizes = []
    while not scheduler.finished:
        trained(net, inputs, optimizer, scheduler, 1)
        if scheduler.step_count % 4 == 1:
            sparsify_fx.shrink(net, inputs, optimizer, scheduler=scheduler)
            sizes.append(sum(p.full_shape().numel() for p in programs(net).values()))
    assert sizes == sorted(sizes, reverse=True)
    left = sum(int((w != 0).sum()) for w in effective(net).values())
    assert left <= 0.4 * total
    assert sizes[-1] < 0.75 * total


def test_a_schedule_that_does_not_know_of_it_says_so() -> None:
    net, inputs = started("gmp")
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    scheduler = sparsify_fx.Scheduler(net, optimizer, epochs=4, steps_per_epoch=2)
    trained(net, inputs, optimizer, scheduler, 4)
    sparsify_fx.shrink(net, inputs, optimizer)
    with pytest.raises(SchedulerError, match="scheduler=scheduler"):
        trained(net, inputs, optimizer, scheduler, 4)


def test_zeros_that_are_scattered_stay_masked() -> None:
    net, inputs = started("gmp", schedule="at-init")
    # More zeros within the channels that live.
    for program in programs(net).values():
        mask = program.current_mask()
        assert mask is not None
        program.set_mask(mask * (torch.rand(mask.shape) < 0.7).to(mask))
    before, values = net(inputs), {n: int((w != 0).sum()) for n, w in effective(net).items()}  # fmt: skip
    assert sparsify_fx.shrink(net, inputs).changed
    assert torch.allclose(net(inputs), before, atol=1e-5)
    for name, weight in effective(net).items():
        assert int((weight != 0).sum()) <= values[name]
        assert (weight == 0).any(), name
        assert current_masks(programs(net))[name].shape == weight.shape


def test_living_storage_becomes_full() -> None:
    net, inputs = started("magnitude", schedule="at-init", storage="living")
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
    net(inputs).square().mean().backward()
    optimizer.step()
    before = net(inputs)
    assert sparsify_fx.shrink(net, inputs, optimizer).changed
    assert torch.allclose(net(inputs), before, atol=1e-5)
    for program in programs(net).values():
        for factor in program.factor_tensors().values():
            assert optimizer.state[factor]["momentum_buffer"].shape == factor.shape


def test_channels_first_then_scattered_zeros(tmp_path: Path) -> None:
    net, inputs = started("gmp")
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
    scheduler = sparsify_fx.Scheduler(net, optimizer, epochs=2, steps_per_epoch=2)
    trained(net, inputs, optimizer, scheduler, 4)
    shrunk = sparsify_fx.shrink(net, inputs, optimizer, scheduler=scheduler)
    with pytest.raises(LayerError, match="merge"):
        shrunk.undo(net)
    sparsify_fx.merge(net)
    momentum = [optimizer.state[p]["momentum_buffer"] for p in net.parameters()]
    sparsify_fx.apply(net, "gmp", sparsity=0.8, allocation="uniform")
    scheduler = sparsify_fx.Scheduler(net, optimizer, epochs=2, steps_per_epoch=2)
    held = [optimizer.state[p]["momentum_buffer"] for p in net.parameters()]
    assert {id(tensor) for tensor in held} == {id(tensor) for tensor in momentum}
    trained(net, inputs, optimizer, scheduler, 4)
    weights = effective(net).values()
    total = sum(w.numel() for w in weights)
    assert sum(int((w != 0).sum()) for w in weights) == round(0.2 * total)
    sparsify_fx.export(net, tmp_path / "net.onnx", inputs)
    assert (tmp_path / "net.onnx").is_file()
