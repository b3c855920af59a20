"""Channels that move and come back: whole, awake, and as many as before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsify_fx
from sparsify_fx.errors import MethodError, SparsifyError, SparsityError
from sparsify_fx.programs.owners import current_masks, programs
from sparsify_fx.recipe import METHODS
from tests.conftest import effective
from tests.coupling.nets import made


def loss_of(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets)


def started(method: str, **options: Any) -> tuple[nn.Module, Tensor, Tensor]:
    net, inputs = made("residual")
    targets = torch.tensor([1, 3])
    options = {"sparsity": 0.5, "granularity": "channel"} | options
    sparsify_fx.apply(
        net,
        method,
        example_inputs=inputs,
        batches=[(inputs, targets)],
        loss_fn=loss_of,
        **options,
    )
    return net, inputs, targets


def channels(net: nn.Module) -> dict[str, Tensor]:
    """Which rows of each weight live; the weights must have whole ones."""
    found = {}
    for name, mask in current_masks(programs(net)).items():
        rows = mask.bool().flatten(1).any(1)
        columns = mask.bool().transpose(0, 1).flatten(1).any(1)
        shape = [-1, 1] + [1] * (mask.ndim - 2)
        whole = rows.reshape(shape) & columns.reshape(1, *shape[:1], *shape[2:])
        assert torch.equal(mask.bool(), whole.expand(mask.shape)), name
        found[name] = rows
    return found


@pytest.mark.parametrize("method", ["rigl", "set", "rigl+signin"])
def test_channels_move(method: str) -> None:
    growth = "gradient" if "rigl" in method else "random"
    schedule = {"name": "regrow", "growth": growth, "fraction": 0.5, "every": 1}
    net, inputs, targets = started(method, schedule=schedule, sparsity=0.4)
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
    scheduler = sparsify_fx.Scheduler(net, optimizer, epochs=4, steps_per_epoch=2)
    first = channels(net)
    count = sum(int(mask.sum()) for mask in current_masks(programs(net)).values())
    while not scheduler.finished:
        optimizer.zero_grad()
        loss_of(net(inputs), targets).backward()
        optimizer.step()
        scheduler.step()
        now = channels(net)
        assert [int(rows.sum()) for rows in now.values()] == [
            int(rows.sum()) for rows in first.values()
        ]
    assert any(not torch.equal(now[name], first[name]) for name in now)
    assert count == sum(int(m.sum()) for m in current_masks(programs(net)).values())
    # What came back is awake: no row that lives is zero.
    for name, rows in channels(net).items():
        assert (effective(net)[name][rows] != 0).flatten(1).any(1).all(), name


def test_channels_that_come_back_are_awake() -> None:
    """AC/DC: the outputs stay when the channels come back, and the columns that read them have gradients."""
    net, inputs, targets = started("acdc", allocation="uniform")
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    scheduler = sparsify_fx.Scheduler(net, optimizer, epochs=8, steps_per_epoch=4)
    seen = 0
    while not scheduler.finished:
        before = channels(net)
        optimizer.zero_grad()
        loss_of(net(inputs), targets).backward()
        optimizer.step()
        outputs = net(inputs)
        scheduler.step()
        after = channels(net)
        back = after["inner.weight"] & ~before["inner.weight"]
        if not back.any():
            continue
        seen += 1
        assert torch.allclose(net(inputs), outputs, atol=1e-6)
        weight = effective(net)["outer.weight"]
        old = before["outer.weight"]
        assert (weight[old][:, back] == 0).all()
        optimizer.zero_grad()
        loss_of(net(inputs), targets).backward()
        (factor,) = programs(net)["outer.weight"].factor_tensors().values()
        assert factor.grad is not None
        assert factor.grad[old][:, back].abs().sum() > 0
    assert seen


@pytest.mark.parametrize("method", ["snip", "synflow", "random+signin", "lrr+signin"])
def test_methods_prune_whole_channels(method: str) -> None:
    net = started(method)[0]
    channels(net)


@pytest.mark.sweep
@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_prunes_channels_or_says_why_not(method: str) -> None:
    before = {n: v.clone() for n, v in made("residual")[0].state_dict().items()}
    try:
        net = started(method)[0]
    except SparsifyError:
        return
    if current_masks(programs(net)):
        channels(net)
    assert list(sparsify_fx.dense_state_dict(net)) == list(before)


@pytest.mark.parametrize(
    ("granularity", "schedule", "words"),
    [
        ("block:2x2", "regrow", "moves single weights"),
        ("channel", {"name": "regrow", "growth": "momentum"}, "'gradient' or 'random'"),
    ],
)
def test_moves_without_meaning_are_refused(
    granularity: str, schedule: Any, words: str
) -> None:
    with pytest.raises(MethodError, match=words):
        started("magnitude", granularity=granularity, schedule=schedule)


@pytest.mark.parametrize("method", ["set", "rigl"])
def test_channels_that_were_cut_out_do_not_come_back(method: str) -> None:
    left = []
    for shrinks in (0, 3):
        net, inputs, targets = started(method)
        optimizer = torch.optim.SGD(net.parameters(), 0.02)
        scheduler = sparsify_fx.Scheduler(net, optimizer, epochs=12, steps_per_epoch=1)
        for epoch in range(12):
            loss_of(net(inputs), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            if epoch in (2, 5, 8)[:shrinks]:
                sparsify_fx.shrink(net, inputs, optimizer, scheduler)
        sparsify_fx.merge(net)
        left.append(sparsify_fx.shrink(net, inputs).parameters[1])
    assert left[0] == left[1]


@pytest.mark.parametrize("method", ["gmp", "lrr", "magnitude"])
def test_a_sparsity_that_channels_cannot_reach_is_refused_at_once(method: str) -> None:
    with pytest.raises(SparsityError, match="or in the last one of their layers"):
        started(method, sparsity=0.999)
