from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sparsify_fx
from sparsify_fx.allocations import ALLOCATIONS, Global, NofM
from sparsify_fx.errors import OvershootWarning
from sparsify_fx.parameterizations import (
    HardConcrete,
    Parameterization,
    Reopening,
    SigmoidGate,
    SoftThreshold,
)
from sparsify_fx.passes import InsertMask, Reparameterize
from sparsify_fx.programs.owners import programs
from sparsify_fx.scheduler.overshoot import find_overshoot, kept_zeros
from tests.conftest import small_net

GATED: list[Any] = [
    SigmoidGate(),
    SigmoidGate(start=-0.1, scale=30.0),
    HardConcrete(),
    HardConcrete(scale=10.0),
    SoftThreshold(),
    SoftThreshold(per="channel"),
    SoftThreshold(start=-1.0, gate="exp"),
]


def gated(how: Parameterization, seed: int = 0, shut: float = 0.9) -> nn.Module:
    """A model late in its training: most gates are shut, some weights that they gate are zero."""
    model = small_net(seed)
    InsertMask()(model)
    Reparameterize(how)(model)
    generator = torch.Generator().manual_seed(seed)
    for program in programs(model).values():
        dense = program.get_parameter("dense")
        with torch.no_grad():
            dense.copy_(torch.randn(dense.shape, generator=generator) / 10)
            dense[torch.rand(dense.shape, generator=generator) < 0.05] = 0
            if isinstance(how, SoftThreshold):
                s = program.get_parameter("s")
                level = dense.abs().quantile(shut)
                s.fill_(float(level.log() if how.gate == "exp" else level.logit()))
                s += 0.1 * torch.rand(s.shape, generator=generator)
            else:
                logit = program.get_parameter("logit")
                draws = torch.randn(logit.shape, generator=generator) * 3
                logit.copy_(
                    (
                        draws
                        - draws.quantile(shut)
                        - (3.0 if isinstance(how, HardConcrete) else 0.0)
                    )
                    / how.scale
                )
        for name, state in program.state_tensors().items():
            state.fill_(how.temperature if name == "temperature" else 0.0)  # type: ignore[attr-defined]
    return model


def settled(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: program.settled() for name, program in programs(model).items()}


@pytest.mark.parametrize("how", GATED, ids=repr)
@pytest.mark.parametrize("allocation", ["global", "erk", "uniform"])
@pytest.mark.parametrize("kept", [100, 396, 700])
def test_the_nearest_closed_weights_come_back_to_the_exact_count(
    how: Any, allocation: str, kept: int
) -> None:
    model = gated(how)
    found, before = programs(model), settled(model)
    overshoot = find_overshoot(found, kept, ALLOCATIONS[allocation]())
    assert overshoot
    assert overshoot.left == sum(
        int(value.count_nonzero()) for value in before.values()
    )
    nearness = {
        name: how.nearness(program.tensors()) for name, program in found.items()
    }
    overshoot.reopen(found)
    after = settled(model)
    assert all(
        torch.equal(after[n] != 0, (before[n] != 0) | overshoot.where[n]) for n in found
    ), "these and no others"
    assert all(
        torch.equal(after[n][before[n] != 0], before[n][before[n] != 0]) for n in found
    ), "open ones keep theirs"
    if allocation == "global":
        assert sum(int(value.count_nonzero()) for value in after.values()) == kept
        assert overshoot.zeros == 0
        closed = torch.cat(
            [nearness[n][(before[n] == 0) & ~overshoot.where[n]] for n in found]
        )
        opened = torch.cat([nearness[n][overshoot.where[n]] for n in found])
        assert opened.min() >= closed.max()
    for program in found.values():
        program.settle()
    assert all(
        torch.equal(program.effective(), after[name]) for name, program in found.items()
    )
    again = find_overshoot(found, kept, ALLOCATIONS[allocation]())
    assert (again.opened, again.zeros) == (0, overshoot.zeros)


def test_what_comes_back_has_the_documented_value() -> None:
    for how in GATED:
        model = gated(how)
        found = programs(model)
        dense = {
            name: program.get_parameter("dense").detach().clone()
            for name, program in found.items()
        }
        overshoot = find_overshoot(found, 300, Global())
        overshoot.reopen(found)
        for name, value in settled(model).items():
            where = overshoot.where[name]
            if isinstance(how, SoftThreshold):
                size, rows = (
                    dense[name].abs(),
                    [slice(None)] if how.per == "layer" else range(len(where)),
                )
                for row in rows:
                    if where[row].any():
                        back, least = size[row][where[row]], size[row][where[row]].min()
                        expected = back - least * (1 - 2.0**-8)
                        torch.testing.assert_close(
                            value[row][where[row]].abs(), expected, rtol=1e-4, atol=1e-6
                        )
                assert torch.equal(value[where].sign(), dense[name][where].sign())
            else:
                torch.testing.assert_close(
                    value[where], dense[name][where], rtol=0, atol=0
                )


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(GATED),
    st.integers(0, 10**6),
    st.floats(1e-30, 1e3),
    st.floats(-20, 3),
)
def test_an_opened_entry_is_never_zero(
    how: Any, seed: int, size: float, level: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn(6, 5, generator=generator) * size
    tensors = {
        "dense": dense,
        "logit": level + torch.randn(6, 5, generator=generator),
        **how.state(dense),
    }
    tensors |= {
        name: torch.full_like(s, level) for name, s in how.shared(dense).items()
    }
    if "temperature" in tensors:
        tensors["temperature"].fill_(how.temperature)
    if "noisy" in tensors:
        tensors["noisy"].zero_()
    where = (torch.rand(6, 5, generator=generator) < 0.4) & (
        how.nearness(tensors) > -math.inf
    )
    opened = tensors | how.opened(tensors, where)
    final = opened | how.settle(opened)
    value = how.value(final)
    assert value[where].all()
    kept = how.value(tensors | how.settle(tensors))
    assert torch.equal(value[~where], kept[~where])


def test_masked_entries_stay_so_and_patterns_are_met() -> None:
    model = gated(SigmoidGate())
    found = programs(model)
    masks = {
        name: torch.arange(p.theta().numel()).reshape(p.theta().shape) % 2
        for name, p in found.items()
    }
    for name, program in found.items():
        program.set_mask(masks[name])
    overshoot = find_overshoot(found, 390, Global())
    overshoot.reopen(found)
    assert all(not (overshoot.where[name] & (masks[name] == 0)).any() for name in found)
    assert (
        sum(int(value.count_nonzero()) for value in settled(model).values())
        == 390 - overshoot.zeros
    )
    linear = nn.Sequential(nn.Linear(16, 8, bias=False))
    Reparameterize(SigmoidGate(start=-0.1))(linear)
    InsertMask()(linear)
    overshoot = find_overshoot(programs(linear), 64, NofM())
    overshoot.reopen(programs(linear))
    groups = (settled(linear)["0.weight"] != 0).reshape(8, 4, 4).sum(-1)
    assert (groups == 2).all()


def test_weights_without_gates_are_kept_as_zeros_and_said() -> None:
    model = sparsify_fx.apply(small_net(), "gmp", sparsity=0.5)
    found = programs(model)
    assert kept_zeros(found) == 0
    for program in found.values():
        theta = program.theta()
        program.write(
            torch.where(
                theta.abs() > theta.abs().quantile(0.7), theta, torch.zeros_like(theta)
            )
        )
    left = sum(int(value.count_nonzero()) for value in settled(model).values())
    overshoot = find_overshoot(found, 396, Global())
    assert (overshoot.opened, overshoot.zeros, overshoot.left) == (0, 396 - left, left)
    with pytest.warns(
        OvershootWarning,
        match=rf"gmp went beyond .*: none can be opened, {396 - left} are kept as zeros",
    ):
        overshoot.warn("gmp")
    assert kept_zeros(found) == 792 - left
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_overshoot(found, left, Global()).warn("gmp")
    assert isinstance(SigmoidGate(), Reopening)
    assert not isinstance(programs(model)["0.weight"].parameterization, Reopening)
