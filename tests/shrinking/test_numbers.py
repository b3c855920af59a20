"""Numbers of modules: those that are sizes change with what is cut, those that equal one by chance do not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.errors import LayerError
from sparsify_fx.shrinking.spying import sizes_read


class Attention(nn.Module):
    """`heads` are read in the code; `window`, as large, is not."""

    def __init__(self, width: int = 32, heads: int = 4, literal: bool = False) -> None:
        super().__init__()
        self.heads, self.window, self.each = heads, heads, width // heads
        self.literal = literal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        heads = 4 if self.literal else self.heads
        each = self.each if self.each == self.heads else -1
        q, k, v = self.qkv(x).view(b, n, 3, heads, each).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))


class Reader(nn.Module):
    """A net over tokens; `scale` is that of its branch, a parameter or a buffer."""

    def __init__(self, attention: nn.Module, scale: Tensor, width: int = 32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(20, width)
        self.attention, self.head = attention, nn.Linear(width, 5)
        if isinstance(scale, nn.Parameter):
            self.scale = scale
        else:
            self.register_buffer("scale", scale)

    def forward(self, tokens: Tensor) -> Tensor:
        y = self.words(tokens)
        y = y + self.scale * self.attention(F.layer_norm(y, y.shape[-1:]))
        found: Tensor = self.head(y)
        return found


def pruned(model: nn.Module, example: Tensor, **options: Any) -> nn.Module:
    options = {"sparsity": 0.3, "granularity": "head"} | options
    return sparsify_fx.apply(
        model.eval(),
        "magnitude",
        schedule="at-init",
        allocation="uniform",
        example_inputs=example,
        **options,
    )


TOKENS = torch.randint(0, 20, (2, 7), generator=torch.Generator().manual_seed(0))
SCALES = {
    "one": torch.ones(1),
    "as in CaiT": nn.Parameter(torch.full((32,), 1e-5)),
    "as in ConvNeXt": nn.Parameter(torch.full((32,), 1e-6)),
    "zero": nn.Parameter(torch.zeros(32)),
    "a buffer of zero": torch.zeros(32),
}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("example", ["tokens", "zeros"])
def test_heads_change_and_what_is_as_large_by_chance_does_not(scale: str, example: str) -> None:  # fmt: skip
    given = TOKENS if example == "tokens" else torch.zeros_like(TOKENS)
    net = pruned(Reader(Attention(), copy.deepcopy(SCALES[scale])), given)
    masked = copy.deepcopy(net)
    sparsify_fx.shrink(net, given)
    assert net.attention.heads < 4
    assert net.attention.window == 4
    assert net.attention.qkv.out_features == 24 * net.attention.heads
    for each in (net, masked):
        each.scale.data.fill_(0.5)
    torch.testing.assert_close(net(TOKENS), masked(TOKENS))


def test_heads_that_are_written_in_the_code_are_refused_on_equal_tokens() -> None:
    with pytest.raises(LayerError, match="no head that may go"):
        pruned(Reader(Attention(literal=True), torch.ones(1)), torch.zeros_like(TOKENS))


def test_one_token_cannot_tell_heads_apart() -> None:
    with pytest.raises(LayerError, match="attention over one token"):
        pruned(Reader(Attention(), torch.ones(1)), TOKENS[:, :1])


def test_as_many_heads_as_a_head_is_wide() -> None:
    net = pruned(Reader(Attention(width=16), torch.ones(1), width=16), TOKENS)
    masked = copy.deepcopy(net)
    sparsify_fx.shrink(net, TOKENS)
    assert net.attention.heads < 4 == net.attention.each
    torch.testing.assert_close(net(TOKENS), masked(TOKENS))


class Gate(nn.Module):
    """Squeeze and excitation; larger images than `largest` are pooled first."""

    def __init__(self, width: int, largest: int) -> None:
        super().__init__()
        self.largest, self.width = largest, width
        self.mix = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        if max(x.shape[2:]) > self.largest:
            x = F.adaptive_avg_pool2d(x, self.largest)
        found: Tensor = x * self.mix(x.mean((2, 3)).view(-1, self.width))[..., None, None]  # fmt: skip
        return found


def test_a_limit_of_images_that_equals_a_width_stays() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), Gate(12, 12), nn.Conv2d(12, 4, 1))  # fmt: skip
    small, large = torch.randn(2, 3, 9, 9), torch.randn(2, 3, 19, 19)
    masked = copy.deepcopy(pruned(net, small, granularity="channel", sparsity=0.5))
    sparsify_fx.shrink(net, small)
    assert net[2].largest == 12
    assert net[2].width == net[0].out_channels < 12
    for images in (small, large):
        torch.testing.assert_close(net(images), masked(images))


def test_norms_without_vectors_know_their_width() -> None:
    norms = (nn.InstanceNorm2d(8), nn.BatchNorm2d(8, affine=False, track_running_stats=False))  # fmt: skip
    for norm in norms:
        net = nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 4, 3))
        images = torch.randn(2, 3, 9, 9)
        pruned(net, images, granularity="channel", sparsity=0.5)
        sparsify_fx.shrink(net, images)
        assert net[1].num_features == net[0].out_channels < 8


class Sums(nn.Module):
    """Its numbers reach a size by arithmetic, a limit, an operand, and nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.columns, self.limit, self.factor, self.idle = 2, 3, 6, 6, 6

    def forward(self, x: Tensor) -> Tensor:
        y = x[:, : self.limit] if x.shape[1] > self.limit else x
        return y.reshape(-1, self.rows * self.columns) * self.factor


def test_numbers_are_followed_through_arithmetic() -> None:
    names = ("rows", "columns", "limit", "factor", "idle")
    places = [("", name) for name in names]
    short = sizes_read(Sums(), places, lambda net: net(torch.ones(4, 6)))
    assert short == {("", "rows"), ("", "columns")}
    long = sizes_read(Sums(), places, lambda net: net(torch.ones(4, 9)))
    assert long == short | {("", "limit")}


def test_where_the_model_cannot_run_every_number_may_be_a_size() -> None:
    assert sizes_read(Sums(), [("", "idle")], lambda net: net("no tensor")) == {("", "idle")}  # fmt: skip


class TwoPaths(nn.Module):
    """The first `residual` channels are added to, the rest, as many by chance, are passed on."""

    def __init__(self, residual: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.residual = residual
        self.first = nn.Linear(6, 2 * residual)
        self.more = nn.Linear(2 * residual, residual)
        self.last = nn.Linear(2 * residual, 4)
        # Nothing reads these of the rest.
        for layer in (self.more, self.last):
            layer.weight.data[:, residual + 2 :] = 0

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        sums = y[:, : self.residual] + self.more(y)
        found: Tensor = self.last(torch.cat([sums, y[:, self.residual :]], 1))
        return found


def test_the_bound_of_a_cut_stays_when_what_is_behind_it_shrinks() -> None:
    net, x = TwoPaths(8), torch.randn(3, 6)
    before = copy.deepcopy(net)
    assert sparsify_fx.shrink(net, x).notes == ()
    assert (net.residual, net.first.out_features) == (8, 10)
    torch.testing.assert_close(net(x), before(x))


class Own(nn.Module):
    """Its weights are its own, so that the number that equals a width by chance is the only one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.limit = 8
        self.first = nn.Parameter(torch.randn(8, 6))
        self.last = nn.Parameter(torch.randn(4, 8))
        self.last.data[:, 5:] = 0

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.first).relu()
        y = -y if len(y) > self.limit else y
        return F.linear(y.reshape(len(y), -1, 1).flatten(1), self.last)


def test_the_only_number_may_be_one_by_chance() -> None:
    net = Own()
    sparsify_fx.shrink(net, torch.randn(3, 6))
    assert (net.limit, net.first.shape[0]) == (8, 5)
