"""Sign perturbation: how many, where, when, and the same ones after a resume."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.actions import Occasion, PerturbSigns
from sparsify_fx.errors import MethodError
from sparsify_fx.programs.owners import programs
from sparsify_fx.recipe import find_method
from tests.conftest import batch, small_net

Training = tuple[nn.Module, torch.optim.Optimizer, sparsify_fx.Scheduler]


def start(
    method: str = "lrr", seed: int = 0, fraction: float = 0.3, run: int = 1
) -> Training:
    actions = [PerturbSigns(fraction, run)]
    model = sparsify_fx.apply(
        small_net(), method, sparsity=0.36, seed=seed, actions=actions
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=3, steps_per_epoch=2)
    return model, optimizer, scheduler


def advance(training: Training) -> None:
    model, optimizer, scheduler = training
    inputs, labels = batch(scheduler.step_count)
    optimizer.zero_grad()
    F.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
    scheduler.step()


def flips(training: Training) -> dict[str, torch.Tensor]:
    """The flipped living weights at the start of run 1: those that do not equal the weights before the step."""
    model, optimizer, scheduler = training
    while not (scheduler.run == 0 and scheduler.ends_run):
        advance(training)
    inputs, labels = batch(scheduler.step_count)
    optimizer.zero_grad()
    F.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
    before = {
        name: program.theta().clone() for name, program in programs(model).items()
    }
    scheduler.step()
    found = {}
    for name, program in programs(model).items():
        mask, theta = program.current_mask() == 1, program.theta()
        flipped = mask & (theta == -before[name]) & (theta != 0)
        assert torch.equal(theta[mask & ~flipped], before[name][mask & ~flipped])
        assert not theta[~mask].any()
        found[name] = flipped
    return found


@pytest.mark.parametrize("method", ["lrr", "lrr+signin"])
def test_a_fraction_of_the_living_weights_of_each_layer_flips_once(method: str) -> None:
    training = start(method)
    for name, flipped in flips(training).items():
        living = int(programs(training[0])[name].current_mask().sum())
        assert int(flipped.sum()) == int(0.3 * living + 0.5)
    events = [
        event
        for event in training[2].timeline().events
        if event.what == "perturb-signs"
    ]
    assert [(event.run, event.epoch, event.detail) for event in events] == [
        (1, 0, "fraction=0.3, run=1")
    ]


def test_of_a_product_the_factor_w_flips() -> None:
    model = sparsify_fx.apply(small_net(), "signin", sparsity=0.5)
    program = programs(model)["7.weight"]
    m, w = program.m.detach().clone(), program.w.detach().clone()
    PerturbSigns(1.0, run=0)(model, Occasion(run=0, epoch=0, seed=0))
    assert torch.equal(program.m, m)
    assert torch.equal(program.w, -w)


def test_seed_and_run_decide_which() -> None:
    one, same, other = (flips(start(seed=seed)) for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    draws = [
        torch.rand(3, generator=Occasion(run, 0, 0).generator("x")).tolist()
        for run in (0, 1)
    ]
    assert draws[0] != draws[1]


@pytest.mark.parametrize("at", [5, 6])
def test_a_resumed_training_flips_the_same_and_ends_bit_identical(at: int) -> None:
    straight, saved = start(), None
    while not straight[2].finished:
        if straight[2].step_count == at:
            saved = copy.deepcopy([part.state_dict() for part in straight])
        advance(straight)
    assert saved is not None
    resumed = start()
    for part, state in zip(resumed, saved, strict=True):
        part.load_state_dict(state)
    while not resumed[2].finished:
        advance(resumed)
    ends = straight[0].state_dict(), resumed[0].state_dict()
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_it_is_an_axis_value_that_adds_up() -> None:
    perturbed = {
        "actions": [
            {"name": "rescale"},
            {"name": "perturb-signs", "fraction": 0.8, "run": 8},
        ]
    }
    assert find_method("lrr+signin", perturbed).resolved().actions[1] == PerturbSigns(
        0.8, 8
    )


def test_mistakes_are_explained() -> None:
    for fraction in (0.0, 1.5, True):
        with pytest.raises(MethodError, match=r"must be in \(0, 1\]"):
            PerturbSigns(fraction)
    with pytest.raises(MethodError, match="must be the number of a run"):
        PerturbSigns(0.5, run=-1)
    with pytest.raises(
        MethodError, match=r"run=8 is beyond the 3 run\(s\) of this schedule"
    ):
        start(run=8)
