"""A cut that is wrong shows, also where the outputs at the example would hide it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from sparsify_fx.shrinking import shrink


class Interleaved(nn.Module):
    """Even and odd channels are used apart, so that none may go alone; `hidden` hides the branch."""

    def __init__(self, hidden: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden = hidden
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 5)
        self.skip = nn.Linear(6, 5)
        self.scale = nn.Parameter(torch.tensor(0.0 if hidden == "scale" else 1.0))
        # Channels 0 and 7 are read by nothing.
        self.last.weight.data[:, [0, 11]] = 0
        if hidden == "example":
            self.first.bias.data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu()
        y = self.last(torch.cat([y[:, 0::2], y[:, 1::2]], 1))
        y = self.skip(x) + self.scale * y
        if self.hidden == "masked":
            y = y.masked_fill(torch.arange(5) == 4, -1e9)
        if self.hidden == "lowest":
            y = y.masked_fill(torch.arange(5) == 4, torch.finfo(y.dtype).min)
        return y * 1e-7 if self.hidden == "small" else y


@pytest.mark.parametrize(
    "hidden", ["nothing", "scale", "masked", "lowest", "small", "example"]
)
def test_a_wrong_cut_is_refused(hidden: str) -> None:
    model = Interleaved(hidden)
    example = torch.zeros(4, 6) if hidden == "example" else torch.randn(4, 6)
    before = copy.deepcopy(model)
    report = shrink(model, example)
    # What training does.
    for net in (model, before):
        net.scale.data.fill_(1.0)
    x = torch.randn(4, 6)
    torch.testing.assert_close(model(x)[:, :4], before(x)[:, :4])
    assert not report.changed
    assert "outputs differ" in report.notes[0]


def test_the_model_and_the_example_are_only_read() -> None:
    model = Interleaved("scale")
    example, state = torch.zeros(4, 6), copy.deepcopy(model.state_dict())
    shrink(model, example)
    assert not example.any()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])


class Trained(nn.Module):
    """Half of the channels are read by nothing in evaluation; `more` is what training does with them."""

    def __init__(self, more: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.more = more
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)
        self.drop = nn.Dropout(0.5)
        self.last.weight.data[:, 8:] = 0

    def forward(self, x: Tensor) -> object:
        y = self.first(x).relu()
        if self.training and self.more == "slices":
            y = torch.cat([y[:, :4] * 0.5, y[:, 4:]], 1)
        found = self.last(self.drop(y))
        if self.training and self.more == "features":
            return found, y
        if self.training and self.more == "mean":
            return found, y.mean(1)
        return found


@pytest.mark.parametrize("more", ["slices", "features", "mean"])
def test_training_does_the_same_too(more: str) -> None:
    model = Trained(more)
    model.drop.p = 0.0
    before, x = copy.deepcopy(model), torch.randn(4, 6)
    shrink(model, x)
    torch.testing.assert_close(model.train()(x), before.train()(x))


def test_dropout_is_no_difference() -> None:
    model = Trained("nothing")
    shrink(model, torch.randn(4, 6))
    assert model.first.out_features == 8
