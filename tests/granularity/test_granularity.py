"""Channels, heads and blocks pruned as one: exact groups, at most the budget, and smaller layers in the end."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sparsify_fx
from sparsify_fx.budgets import met_by
from sparsify_fx.budgets.counting import count_multiply_adds
from sparsify_fx.coupling.groups import coupled_groups
from sparsify_fx.errors import LayerError, MethodError, SparsityError
from sparsify_fx.granularity import Blocks
from sparsify_fx.granularity.reductions import Totals
from tests.conftest import effective
from tests.coupling.nets import NETS, made


def density(model: nn.Module) -> float:
    weights = effective(model).values()
    return sum(int((w != 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def pruned(name: str, granularity: str, **options: object) -> tuple[nn.Module, Tensor]:
    net, inputs = made(name)
    options = {"sparsity": 0.4, "schedule": "at-init"} | options
    sparsify_fx.apply(
        net,
        "magnitude",
        granularity=granularity,
        example_inputs=inputs,
        **options,  # type: ignore[arg-type]
    )
    return net, inputs


@pytest.mark.parametrize("reduction", ["relative", "l2", "sum", "max", "mean"])
# Of a tensor that is cut into pieces one channel of each stays, though nothing reads it.
@pytest.mark.parametrize("name", sorted({*NETS} - {"unknown", "attention", "padded"}))
def test_pruned_channels_shrink_away(name: str, reduction: str) -> None:
    net, inputs = pruned(name, "channel", reduction=reduction)
    assert 0.25 < density(net) <= 0.6
    expected = net(inputs)
    sparsify_fx.merge(net)
    shrunk = sparsify_fx.shrink(net, inputs)
    assert shrunk.changed
    assert torch.allclose(net(inputs), expected, atol=1e-6)
    # Nothing is left of what was pruned.
    assert all((w != 0).all() for n, w in net.named_parameters() if w.ndim > 1)


def test_heads_alone() -> None:
    net, inputs = pruned("attention", "head", sparsity=0.5)
    qkv = effective(net)["qkv.weight"].reshape(3, 4, 6, 10) != 0
    alive = qkv[0].any(-1).any(-1)
    assert int(alive.sum()) == 2
    assert bool((qkv == alive.reshape(1, 4, 1, 1)).all())
    expected = net(inputs)
    sparsify_fx.merge(net)
    sparsify_fx.shrink(net, inputs)
    assert (net.heads, net.width, net.qkv.out_features) == (2, 6, 36)
    assert torch.allclose(net(inputs), expected, atol=1e-6)


def test_uniform_takes_the_same_fraction_of_every_width() -> None:
    net, inputs = made("residual")
    with torch.no_grad():
        net.inner.weight /= 100  # type: ignore[operator, union-attr]
    sparsify_fx.apply(
        net,
        "magnitude",
        sparsity=0.5,
        granularity="channel",
        allocation="uniform",
        schedule="at-init",
        example_inputs=inputs,
    )
    sparsify_fx.merge(net)
    sparsify_fx.shrink(net, inputs)
    widths = net.stem.out_channels / 8, net.inner.out_channels / 6  # type: ignore[operator, union-attr]
    assert max(widths) - min(widths) < 0.2


def test_channels_through_a_schedule() -> None:
    """Cycles of training: what is pruned stays pruned, and the end meets the budget."""
    net, inputs = pruned("residual", "channel", sparsity=0.5, schedule="cubic")
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
    scheduler = sparsify_fx.Scheduler(net, optimizer, epochs=4, steps_per_epoch=2)
    seen = []
    for _ in range(8):
        optimizer.zero_grad()
        net(inputs).square().mean().backward()
        optimizer.step()
        scheduler.step()
        seen.append(density(net))
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] <= 0.5
    expected = net(inputs)
    sparsify_fx.merge(net)
    before, after = sparsify_fx.shrink(net, inputs).parameters
    assert after < 0.56 * before
    assert torch.allclose(net(inputs), expected, atol=1e-6)


def test_half_of_the_multiply_adds() -> None:
    net, inputs = made("depthwise")
    example = ((inputs[:1],), {})
    before = count_multiply_adds(net, example).total
    sparsify_fx.apply(
        net,
        "magnitude",
        sparsity=0.5,
        budget="macs",
        granularity="channel",
        schedule="at-init",
        example_inputs=inputs[:1],
    )
    assert met_by(net)[0].expected <= 0.5 * before
    sparsify_fx.merge(net)
    sparsify_fx.shrink(net, inputs[:1])
    after = count_multiply_adds(net, example).total
    assert 0.3 * before < after <= 0.5 * before


def test_blocks_are_whole() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 12))
    sparsify_fx.apply(
        net, "magnitude", sparsity=0.5, granularity="block:8x2", schedule="at-init"
    )
    assert 0.45 < density(net) <= 0.5
    for weight in effective(net).values():
        for rows in (weight != 0).split(8):
            for block in rows.split(2, 1):
                assert block.all() or not block.any()


def test_the_best_blocks_stay() -> None:
    score = torch.tensor([[1.0, 9.0, 1.0], [5.0, 1.0, 1.0]])
    masks = Blocks(2, 1, "max").choose({"w": score}, {"w": 6}, 4)
    assert masks["w"].tolist() == [[1, 1, 0], [1, 1, 0]]
    masks = Blocks(1, 2, "sum").choose({"w": score}, {"w": 6}, 3)
    assert masks["w"].tolist() == [[1, 1, 0], [0, 0, 0]]


def test_blocks_relative_to_their_layer() -> None:
    """A layer a hundred times as small loses as many blocks as one of the same values; by the mean it loses all."""
    score = torch.arange(1.0, 9.0).reshape(2, 4)
    scores = {"large": score, "small": score / 100}
    capacity = dict.fromkeys(scores, 8)
    masks = Blocks(1, 1, "relative").choose(scores, capacity, 8)
    assert torch.equal(masks["large"], masks["small"])
    masks = Blocks(1, 1).choose(scores, capacity, 8)
    assert int(masks["small"].sum()) == 0


def test_scores_below_zero_count_against_a_group() -> None:
    totals = Totals(3)
    totals.add(torch.tensor([[3.0, -4.0], [-3.0, 0.0], [1.0, 0.0]]), np.arange(3))
    found = totals.scores("relative", [np.arange(3)])
    size = ((7 + 9 + 1) / 3) ** 0.5
    assert np.allclose(found, [-(7**0.5) / size, -3 / size, 1 / size])


def test_the_scale_of_a_layer_does_not_decide_by_default() -> None:
    """A width whose weights are a hundred times as small loses no more of its channels than before."""

    def widths(scale: float, **options: object) -> tuple[int, int]:
        net, inputs = made("residual")
        with torch.no_grad():
            for layer in (net.inner, net.outer):
                layer.weight *= scale  # type: ignore[operator, union-attr]
        sparsify_fx.apply(
            net,
            "magnitude",
            sparsity=0.5,
            granularity="channel",
            schedule="at-init",
            example_inputs=inputs,
            **options,  # type: ignore[arg-type]
        )
        rows = [(effective(net)[f"{n}.weight"] != 0).flatten(1).any(1).sum() for n in ("stem", "inner")]  # fmt: skip
        return int(rows[0]), int(rows[1])

    # Only the residual width's own order may change, in which small weights count less.
    assert abs(widths(1.0)[1] - widths(0.01)[1]) <= 1
    assert widths(0.01, reduction="mean")[1] == 1


def test_numbers_are_a_pattern() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    sparsify_fx.apply(
        net, "magnitude", sparsity=0.75, granularity="1:4", schedule="at-init"
    )
    for weight in effective(net).values():
        assert ((weight.reshape(-1, 4) != 0).sum(1) == 1).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"granularity": "chanel"}, "expected 'weight'"),
        ({"granularity": None}, "granularity=None: expected 'weight'"),
        ({"granularity": "channel"}, "example_inputs"),
        ({"granularity": "block:0x2"}, "at least 1"),
        ({"granularity": "block:2x2", "reduction": "median"}, "reduction"),
        ({"granularity": "block:2x2", "allocation": "erk"}, "leave allocation="),
        ({"granularity": "block:2x2", "schedule": "regrow"}, "regrow"),
    ],
)
def test_what_has_no_meaning_is_refused(options: dict[str, object], words: str) -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    with pytest.raises(MethodError, match=words):
        sparsify_fx.apply(net, "magnitude", **options)  # type: ignore[arg-type]
    assert type(net[0]).__name__ == "Linear"
    assert list(net.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_a_model_without_channels_that_may_go_is_refused() -> None:
    net = nn.Linear(4, 4)
    with pytest.raises(LayerError, match=r"no channel that may go.* include="):
        sparsify_fx.apply(
            net, "magnitude", granularity="channel", example_inputs=torch.ones(1, 4)
        )


def test_more_than_the_channels_hold_is_refused() -> None:
    net, inputs = made("concatenation")
    with pytest.raises(SparsityError, match="ask for less"):
        sparsify_fx.apply(
            net,
            "magnitude",
            sparsity=0.99,
            granularity="channel",
            schedule="at-init",
            example_inputs=inputs,
        )


def test_layers_that_are_left_out_keep_what_they_read() -> None:
    net, inputs = made("gated")
    sparsify_fx.apply(
        net,
        "magnitude",
        sparsity=0.3,
        granularity="channel",
        exclude="last",
        schedule="at-init",
        example_inputs=inputs,
    )
    assert bool((effective(net)["both.weight"] != 0).all())
    sparsify_fx.merge(net)
    assert coupled_groups(net, inputs).traced
    sparsify_fx.shrink(net, inputs)
    assert net.both.out_features == 14  # type: ignore[union-attr]
    assert net.up.out_features < 9  # type: ignore[union-attr, operator]


def test_inputs_that_the_model_does_not_take_are_told_in_words() -> None:
    net, _ = made("residual")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(LayerError, match="does not take the example inputs"):
        sparsify_fx.apply(
            net, "gmp", granularity="channel", example_inputs=torch.ones(2, 3)
        )
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


def test_without_sparsity_all_channels_live() -> None:
    net, _ = pruned("gated", "channel", sparsity=0.0)
    assert density(net) == 1


def test_wide_layers_keep_a_multiple_of_four_channels() -> None:
    net = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 3))
    options = {"granularity": "channel", "schedule": "at-init"}
    for sparsity in (0.2, 0.45, 0.7):
        copied = copy.deepcopy(net)
        inputs = torch.ones(1, 6)
        sparsify_fx.apply(
            copied, "magnitude", sparsity=sparsity, example_inputs=inputs, **options
        )
        rows = (effective(copied)["0.weight"] != 0).any(1)
        assert int(rows.sum()) % 4 == 0
