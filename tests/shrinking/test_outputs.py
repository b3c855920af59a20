"""Models whose outputs, attributes or vectors are of an unusual kind shrink like others, and are left as they were."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsify_fx
from sparsify_fx.shrinking import shrink
from sparsify_fx.shrinking.trial import Trial


class Net(nn.Module):
    """Half of the hidden channels are read by nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)
        self.last.weight.data[:, 4:] = 0

    def hidden(self, x: Tensor) -> Tensor:
        return self.first(x).relu()

    def forward(self, x: Tensor) -> Any:
        return self.last(self.hidden(x))


class TruthValues(Net):
    def forward(self, x: Tensor) -> Any:
        y = super().forward(x)
        return y, y > 0


class Infinite(Net):
    """Classes that are not allowed are masked, as pointers and vocabularies are."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x).masked_fill(torch.arange(3) == 1, -torch.inf)


class Noisy(Net):
    """Samples are drawn in evaluation too, as in the middle of an autoencoder."""

    def forward(self, x: Tensor) -> Any:
        y = super().forward(x)
        return y + torch.randn_like(y)


class Remembering(Net):
    """What was computed stays in an attribute, with its history."""

    def hidden(self, x: Tensor) -> Tensor:
        self.last_hidden = super().hidden(x)
        return self.last_hidden


class OldNorm(Net):
    """torch.nn.utils.weight_norm keeps the weight that it computed in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.utils.weight_norm(nn.Linear(5, 8))  # type: ignore[no-untyped-call]
        self.middle = nn.Linear(8, 8)
        self.last.weight.data[:, 4:] = 0

    def hidden(self, x: Tensor) -> Tensor:
        return self.middle(super().hidden(x)).relu()


class Largest(nn.Module):
    """Largest entries come with their places."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv1d(5, 8, 1), nn.Linear(8, 3)
        self.last.weight.data[:, 4:] = 0
        self.pool = nn.AdaptiveMaxPool1d(2)

    def forward(self, x: Tensor) -> Any:
        y = self.pool(self.first(x.unsqueeze(-1).expand(-1, -1, 4)))
        return self.last(torch.max(y.max(-1).values, y.min(dim=-1)[0]))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    "kind", [TruthValues, Infinite, Noisy, Remembering, OldNorm, Largest]
)
def test_half_of_the_channels_go(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    net, inputs = kind(), torch.randn(4, 5)
    # Attributes hold what a step of training left there.
    net(inputs)
    torch.manual_seed(1)
    expected = net(inputs)
    state = torch.get_rng_state()
    shrunk = shrink(net, inputs)
    assert net.last.in_features == 4
    assert not shrunk.notes
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    torch.testing.assert_close(net(inputs), expected, atol=1e-6, rtol=0)


def test_what_a_forward_leaves_in_the_model_stays_as_it_was() -> None:
    net, inputs = Remembering(), torch.randn(4, 5)
    net(inputs)
    left = net.last_hidden
    shrink(net, inputs)
    assert net.last_hidden is left


class Snake(nn.Module):
    """An activation that divides by a parameter of its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)
        self.last.weight.data[:, 4:] = 0
        self.alpha = nn.Parameter(torch.rand(1, 8) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.last(y + torch.sin(self.alpha * y).square() / self.alpha)


def test_what_is_divided_by_is_not_zero_on_the_way_back() -> None:
    net, inputs = Snake(), torch.randn(4, 5)
    expected, whole = net(inputs), Snake()
    shrunk = shrink(net, inputs)
    assert shrunk.changed
    whole.load_state_dict(shrunk.full_state_dict(net))
    torch.testing.assert_close(whole(inputs), expected, atol=1e-6, rtol=0)
    whole(inputs).sum().backward()
    assert all(p.grad.isfinite().all() for p in whole.parameters())  # type: ignore[union-attr]


@dataclass
class Answer:
    logits: Tensor


class Answering(Net):
    def forward(self, x: Tensor) -> Any:
        return Answer(super().forward(x))


class Policy(Net):
    def forward(self, x: Tensor) -> Any:
        return torch.distributions.Normal(super().forward(x), 1.0)


class Silent(Net):
    def forward(self, x: Tensor) -> Any:
        return "no tensors"


@pytest.mark.parametrize("kind", [Answering, Policy, Net, Silent])
def test_a_change_that_shows_in_no_tensor_is_no_proof(kind: type[nn.Module]) -> None:
    trial = Trial(kind(), torch.randn(4, 5))
    unchanged = trial.failure(lambda model: None)
    changed = trial.failure(lambda model: model.last.weight.data.mul_(2))
    assert unchanged == ("the outputs hold no tensors that could be compared" if kind is Silent else "")  # fmt: skip
    assert changed.startswith("the outputs hold no" if kind is Silent else "outputs differ")  # fmt: skip


class Longest(nn.Module):
    """The longest length is by chance as large as the number of heads."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.longest = 4, 4
        self.rows, self.out = nn.Linear(5, 12), nn.Linear(12, 5)
        self.out.weight.data[:, 6:] = 0

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] > self.longest:
            raise ValueError("too long")
        y = self.rows(x).view(*x.shape[:2], self.heads, -1)
        return self.out(y.relu().flatten(2))


def test_numbers_that_are_equal_by_chance_stay() -> None:
    net, inputs = Longest(), torch.randn(2, 4, 5)
    expected = net(inputs)
    assert shrink(net, inputs[:, :2]).changed
    assert (net.heads, net.longest) == (2, 4)
    torch.testing.assert_close(net(inputs), expected, atol=1e-6, rtol=0)


class Prefixed(nn.Module):
    """Joins its features with a prefix that may be empty, as it is here."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        features = self.inner(x)
        return self.head(torch.cat([features[:, :0], features], 1).relu())


def test_tensors_without_channels_are_no_obstacle() -> None:
    torch.manual_seed(0)
    net, x = Prefixed().eval(), torch.randn(3, 4)
    sparsify_fx.apply(
        net,
        "magnitude",
        sparsity=0.5,
        granularity="channel",
        schedule="at-init",
        example_inputs=x,
    )
    masked = net(x)
    shrunk = shrink(sparsify_fx.merge(net), x)
    assert shrunk.changed
    torch.testing.assert_close(net(x), masked)


class Unpooling(nn.Module):
    """Its decoder puts values back to where its encoder found them, as SegNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.between, self.last = (
            nn.Conv2d(channels, made, 3, padding=1)
            for channels, made in ((3, 8), (8, 8), (8, 2))
        )

    def forward(self, x: Tensor) -> Tensor:
        pooled, places = F.max_pool2d(self.encode(x).relu(), 2, return_indices=True)
        return self.last(F.max_unpool2d(self.between(pooled), places, 2))


def test_unpooled_channels_go_with_their_places() -> None:
    torch.manual_seed(0)
    model, x = Unpooling().eval(), torch.randn(2, 3, 8, 8)
    # What two channels become is not read; the places of one of them come from a channel that is.
    model.last.weight.data[:, :2] = 0
    model.between.weight.data[:, 1] = 0
    model.between.weight.data[2:, 0] = 0
    expected = model(x)
    shrink(model, x)
    torch.testing.assert_close(model(x), expected, rtol=1e-6, atol=1e-6)
    assert (model.encode.out_channels, model.between.out_channels) == (6, 6)
