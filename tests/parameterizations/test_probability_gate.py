"""probability-gate and probmask: gates and projections against numpy, and probabilities in their budget in training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.errors import MethodError
from sparsify_fx.parameterizations import Moment, ProbabilityGate
from sparsify_fx.programs.owners import programs
from tests.conftest import batch, small_net


def parts(
    noisy: float, soft: float = 1.0, temperature: float = 3.0
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "dense": torch.randn(40, generator=generator, dtype=torch.float64),
        "probability": torch.rand(40, generator=generator, dtype=torch.float64) / 2,
        "noise": torch.randn(40, generator=generator, dtype=torch.float64),
        "temperature": torch.tensor(temperature),
        "noisy": torch.tensor(noisy),
        "soft": torch.tensor(soft),
    }


def test_gates_are_random_in_training_and_hard_in_evaluation() -> None:
    how, tensors = ProbabilityGate(scale=2.0), parts(1.0)
    dense, noise = tensors["dense"].numpy(), tensors["noise"].numpy()
    p = 2 * tensors["probability"].numpy()
    logit = np.log(p + 1e-6) - np.log(1 - p + 1e-6)
    soft = dense / (1 + np.exp(-3 * (logit + noise)))
    np.testing.assert_allclose(how.value(tensors).numpy(), soft, rtol=1e-9)
    for hard in (parts(0.0), parts(1.0, soft=0.0)):
        expected = np.where(p >= 0.5, dense, 0)
        np.testing.assert_array_equal(how.value(hard).numpy(), expected)


def test_gradients_are_those_of_the_soft_gates() -> None:
    how, tensors = ProbabilityGate(scale=2.0), parts(1.0)
    for name in ("dense", "probability"):
        tensors[name].requires_grad_()
    how.value(tensors).sum().backward()
    step = 1e-6
    for name in ("dense", "probability"):
        up, down = (
            how.value({**tensors, name: tensors[name] + sign * step})
            for sign in (1, -1)
        )
        expected = ((up - down) / (2 * step)).detach()
        torch.testing.assert_close(tensors[name].grad, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("progress", [0.0, 0.16, 0.38, 0.6, 0.9])
def test_the_projection_is_the_nearest_point_of_the_set(progress: float) -> None:
    how = ProbabilityGate(density=0.2)
    generator = torch.Generator().manual_seed(1)
    values = [torch.rand(n, generator=generator) * 1.4 - 0.1 for n in (30, 50)]
    found = how.projected([{"probability": v} for v in values], progress)
    flat = torch.cat([part["probability"] for part in found]).double().numpy()
    given = torch.cat(values).double().numpy()
    left = min(1.0, max(0.0, (progress - 0.16) / 0.44))
    budget = 80 * (0.25 + 0.75 * (1 - left) ** 3)
    # Dykstra's rule by hand: the optimum is clip(p − v) with v on a fine grid, the first that fits.
    grid = np.linspace(0, 1.4, 140_001)
    sums = np.array([np.clip(given - v, 0, 1).sum() for v in grid[::100]])
    start = max(0, int(np.argmax(sums <= budget)) - 1) * 100
    v = next(v for v in grid[start:] if np.clip(given - v, 0, 1).sum() <= budget + 1e-9)
    np.testing.assert_allclose(flat, np.clip(given - v, 0, 1), atol=2e-5)
    assert flat.sum() <= budget * (1 + 1e-5)
    again = [{"probability": part["probability"]} for part in found]
    assert how.projected(again, progress) == []


def test_the_noise_is_logistic_and_the_temperature_rises() -> None:
    how = ProbabilityGate()
    state = how.state(torch.zeros(200_000))
    how.refresh(state, Moment(progress=0.5, seed=3))
    assert float(state["temperature"]) == pytest.approx(1 / (1 - 0.97 * 0.5))
    assert float(state["noise"].std()) == pytest.approx(
        math.pi / math.sqrt(3), rel=0.02
    )
    how.refresh(state, Moment(progress=1.0, seed=4))
    assert float(state["soft"]) == 0.0


def test_probabilities_stay_within_their_budget_in_a_training() -> None:
    model: Any = small_net()
    sparsify_fx.apply(model, "probmask", sparsity=0.8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    scheduler = sparsify_fx.Scheduler(
        model, optimizer, epochs=10, steps_per_epoch=4, learning_rate="constant"
    )
    found, sums = programs(model), []
    while not scheduler.finished:
        inputs, labels = batch(0)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        scheduler.step()
        ps = [3.0 * program.tensors()["probability"] for program in found.values()]
        assert all(p.min() >= 0 and p.max() <= 1 + 1e-6 for p in ps) or len(sums) >= 31
        sums.append(float(sum(p.sum() for p in ps)))
    for step, total in enumerate(sums[:31], start=1):
        left = min(1.0, max(0.0, (step / 32 - 0.16) / 0.44))
        assert total <= 792 * (0.25 + 0.75 * (1 - left) ** 3) * (1 + 1e-4)
    assert scheduler.nonzeros() == 158


def test_wrong_options_are_explained() -> None:
    with pytest.raises(MethodError, match="0 <= start < end <= 1"):
        ProbabilityGate(start=0.6, end=0.5)
    with pytest.raises(MethodError, match="must be a finite number"):
        ProbabilityGate(scale=0.0)
