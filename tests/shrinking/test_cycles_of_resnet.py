"""ResNet-20 through cycles of channels, smaller after each, with torch's own curve of the learning rate."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.budgets.counting import count_multiply_adds
from sparsify_fx.programs.owners import programs
from sparsify_fx.rewinds import Rewind
from sparsify_fx.zoo.data.load import load_data
from sparsify_fx.zoo.models.resnet_cifar import CifarResNet

CYCLES, EPOCHS, STEPS = 3, 2, 4
KEEP = 0.5 ** (1 / CYCLES)


def parameters_of(net: nn.Module) -> int:
    return sum(program.full_shape().numel() for program in programs(net).values())


def check_carried(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """The optimizer trains the model's own parameters, and its momentum has their shapes."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for parameter in net.parameters():
        assert id(parameter) in held
        momentum = optimizer.state[parameter]["momentum_buffer"]
        assert momentum.shape == parameter.shape
        assert parameter.ndim < 2 or bool(momentum.any())


@pytest.mark.sweep
@pytest.mark.parametrize("method", ["lrr", "lrr+signin"])
def test_every_cycle_trains_a_smaller_net(method: str) -> None:
    """Channels go in three cycles down to half of the weights; after each the net is cut, and trains on."""
    x, y = images()
    torch.manual_seed(0)
    net = CifarResNet(3, 3, 10)
    dense = count_multiply_adds(net.eval(), ((x[:1],), {})).total
    sparsify_fx.apply(
        net.train(),
        method,
        sparsity=0.5,
        granularity="channel",
        example_inputs=x[:2],
        schedule={"name": "cycles", "keep": KEEP},
        rewind=Rewind(learning_rate=None),
    )
    optimizer = torch.optim.SGD(net.parameters(), 0.02, momentum=0.9)
    scheduler = sparsify_fx.Scheduler(
        net, optimizer, epochs=EPOCHS, steps_per_epoch=STEPS, learning_rate=None
    )
    steps = scheduler.epochs * STEPS
    curve = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    sizes, losses = [parameters_of(net)], []
    for step in range(steps):
        losses.append(one_step(net, optimizer, x, y))
        scheduler.step()
        curve.step()
        if step and (step + 1) % (EPOCHS * STEPS) == 1:
            cut_and_compare(net, optimizer, scheduler, x)
            sizes.append(parameters_of(net))
            # The curve goes on where it was.
            (rate,) = curve.get_last_lr()
            assert optimizer.param_groups[0]["lr"] == rate < 0.02
    assert sizes == sorted(set(sizes), reverse=True)
    assert len(sizes) == CYCLES + 1
    assert sum(losses[-4:]) < sum(losses[:4])
    sparsify_fx.merge(net)
    assert sum(int((p != 0).sum()) for p in matrices(net)) <= 0.5 * sizes[0]
    after = count_multiply_adds(net.eval(), ((x[:1],), {})).total
    assert after < 0.8 * dense


def matrices(net: nn.Module) -> list[Tensor]:
    return [p for p in net.parameters() if p.ndim > 1]


def images() -> tuple[Tensor, Tensor]:
    """40 digits as images [N, 3, 28, 28]."""
    batches = load_data("mnist5k").train.epoch(40, train=True, seed=0, epoch=0)
    x, y = next(iter(batches))
    return x.repeat(1, 3, 1, 1), y


def one_step(net: nn.Module, optimizer: Any, x: Tensor, y: Tensor) -> float:
    optimizer.zero_grad()
    loss = F.cross_entropy(net(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()


def cut_and_compare(net: nn.Module, optimizer: Any, scheduler: Any, x: Tensor) -> None:
    before = net.eval()(x).detach()
    shrunk = sparsify_fx.shrink(net, x[:2], optimizer, scheduler=scheduler)
    assert shrunk.changed
    assert torch.allclose(net(x), before, atol=1e-4)
    net.train()
    check_carried(net, optimizer)
