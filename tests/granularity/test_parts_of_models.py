"""Channels of a part of a model: `apply(net.part, ...)`, with a Scheduler over the whole that sees no inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsify_fx
from sparsify_fx.errors import LayerError

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class BodyAndHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 12, 3, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


def trained(net: nn.Module, optimizer: Any, scheduler: Any, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        net(X).square().mean().backward()
        optimizer.step()
        scheduler.step()


# Each part with what reaches it; the channels between the two belong to neither part alone.
PARTS = {"body": X, "head": torch.ones(4, 12)}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("whole", [True, False])
def test_a_part_is_pruned_and_shrunk(part: str, whole: bool) -> None:
    net = BodyAndHead()
    module = net.get_submodule(part)
    sparsify_fx.apply(
        module, "gmp", sparsity=0.5, granularity="channel", example_inputs=PARTS[part]
    )
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
    scheduler = sparsify_fx.Scheduler(net, optimizer, epochs=4, steps_per_epoch=2)
    trained(net, optimizer, scheduler, 6)
    before = net.eval()(X).detach()
    given = (net, X) if whole else (module, PARTS[part])
    shrunk = sparsify_fx.shrink(*given, optimizer, scheduler=scheduler)
    assert shrunk.parameters[1] < shrunk.parameters[0]
    assert torch.allclose(net(X), before, atol=1e-6)
    # What leaves the part is as wide as before.
    assert net.body[3].out_channels == net.head[0].in_features == 12
    trained(net.train(), optimizer, scheduler, 2)
    sparsify_fx.merge(net)


def test_what_leaves_a_part_may_go_in_the_whole_model() -> None:
    net = BodyAndHead()
    sparsify_fx.apply(
        net,
        "magnitude",
        sparsity=0.5,
        granularity="channel",
        schedule="at-init",
        example_inputs=X,
    )
    sparsify_fx.merge(net)
    sparsify_fx.shrink(net, X)
    assert net.body[3].out_channels == net.head[0].in_features < 12


def test_inputs_of_the_whole_model_are_not_those_of_a_part() -> None:
    net = BodyAndHead()
    with pytest.raises(LayerError, match=r"what reaches it there.* include="):
        sparsify_fx.apply(net.head, "gmp", granularity="channel", example_inputs=X)
    assert type(net.head[0]) is nn.Linear
