"""A buffer that modules share stays one, as a parameter does."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

import sparsify_fx


class Gain(nn.Module):
    def __init__(self, gain: Tensor) -> None:
        super().__init__()
        self.mix = nn.Linear(16, 16)
        self.register_buffer("gain", gain)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.mix(x * self.gain).relu()
        return found


def test_a_shared_buffer_is_cut_and_restored_under_all_its_names() -> None:
    torch.manual_seed(0)
    gain, x = torch.rand(16) + 0.5, torch.randn(4, 8)
    net = nn.Sequential(nn.Linear(8, 16), Gain(gain), Gain(gain), nn.Linear(16, 4))
    sparsify_fx.apply(
        net,
        "magnitude",
        sparsity=0.4,
        granularity="channel",
        schedule="at-init",
        example_inputs=x,
    )
    sparsify_fx.merge(net)
    masked = copy.deepcopy(net)
    shrunk = sparsify_fx.shrink(net, x)
    assert net[1].gain is net[2].gain
    assert len(net[1].gain) == net[0].out_features < 16
    torch.testing.assert_close(net(x), masked(x))
    masked.load_state_dict(shrunk.full_state_dict(net))
    shrunk.undo(net)
    assert net[1].gain is net[2].gain
    torch.testing.assert_close(net(x), masked(x))
