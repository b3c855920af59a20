"""The integrator against flows whose solutions are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sparsify_fx.errors import LabError
from sparsify_fx.lab.common.flow import integrate


def times(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_an_oscillator_returns_after_its_period_with_the_asked_accuracy() -> None:
    frequency = torch.tensor([1.0, 10.0, 0.1], dtype=torch.float64)

    def field(time: Tensor, state: Tensor) -> Tensor:
        return torch.stack([frequency * state[:, 1], -frequency * state[:, 0]], 1)

    start = torch.tensor([[1.0, 0.0]], dtype=torch.float64).repeat(3, 1)
    ends = integrate(field, start, times(0, math.pi, 2 * math.pi))
    exact = torch.stack(
        [(frequency * 2 * math.pi).cos(), -(frequency * 2 * math.pi).sin()], 1
    )
    assert (ends[-1] - exact).abs().max() < 1e-7
    loose = integrate(field, start, times(0, 2 * math.pi), rtol=1e-4, atol=1e-6)[-1]
    assert 1e-9 < (loose - exact).abs().max() < 1e-2


def test_the_field_sees_the_time_and_a_run_does_not_depend_on_its_neighbors() -> None:
    def field(time: Tensor, state: Tensor) -> Tensor:
        return 3 * time[:, None].square() * state

    start = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    both = integrate(field, start, times(0, 0.5, 1))
    assert torch.allclose(both[-1], start * math.e, rtol=1e-8)
    assert torch.equal(both[:, 1:], integrate(field, start[1:], times(0, 0.5, 1)))


def test_a_flow_that_blows_up_and_a_wrong_dtype_are_errors() -> None:
    start = torch.ones(1, 1, dtype=torch.float64)
    with pytest.raises(LabError, match="more than 500 steps"):
        integrate(lambda time, state: state.square(), start, times(0, 2), max_steps=500)
    with pytest.raises(LabError, match="float64"):
        integrate(lambda time, state: state, start.float(), times(0, 1))
