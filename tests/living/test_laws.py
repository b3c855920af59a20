"""The law of living storage: the numbers are those of full storage, for every parameterization and optimizer."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_optimizer
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

import sparsify_fx
from tests.common import SWEEP
from tests.living.common import (
    PARAMETERIZATIONS,
    STORAGES,
    Trained,
    adamw,
    applied,
    check_twins,
    digits,
    scheduled,
    sgd,
    train,
)

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": sgd,
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=2e-3, weight_decay=1e-3),
    "adamw": adamw,
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9),
    "lion": lambda p: pytorch_optimizer.Lion(p, lr=3e-4, weight_decay=1e-2),
    "foreach": lambda p: torch.optim.AdamW(p, lr=2e-3, foreach=True),
    "fused": lambda p: torch.optim.AdamW(p, lr=2e-3, fused=True),
    "fused sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, fused=True),
}
FAST = {
    ("dense", "momentum"),
    ("product", "adamw"),
    ("soft-threshold", "momentum"),
    ("hard-concrete", "fused"),
}


def pairs() -> list[Any]:
    """Every parameterization with every optimizer; a few of them in the fast tests, most of them swept."""
    found = []
    for pair in itertools.product(PARAMETERIZATIONS, OPTIMIZERS):
        how, optimizer = pair
        marks = [] if pair in FAST else [pytest.mark.slow]
        if how != "balanced-product" and optimizer not in ("adam", "nesterov"):
            marks = [] if pair in FAST else [pytest.mark.slow, SWEEP]
        found.append(pytest.param(*pair, marks=marks))
    return found


def trained(
    storage: str,
    how: str,
    make: Callable[[Any], Optimizer],
    steps: int = 200,
    **options: Any,
) -> Trained:
    """A training under random masks, with the noise and the penalty of its method."""
    model = applied(storage, "random", parameterization=how, **options)
    optimizer = make(model.parameters())
    scheduler = scheduled(model, optimizer, epochs=40)
    return train(model, optimizer, steps, scheduler)


@pytest.mark.cross_section(
    "dense-adam",
    "product-adamw",
    "balanced-product-rmsprop",
    "balanced-product-fused",
    "power-propagation-nesterov",
    "sigmoid-gate-nesterov",
)
@pytest.mark.parametrize(("how", "optimizer"), pairs())
def test_200_steps_are_the_same_in_both_storages(how: str, optimizer: str) -> None:
    # Rounding of Adam's root differs with the place of an entry in its vector register, and 200 steps carry it on.
    make = OPTIMIZERS[optimizer]
    check_twins(*(trained(storage, how, make) for storage in STORAGES))


class Accumulating:
    """An optimizer's step after each second backward, with the norm of the gradient clipped."""

    def __init__(self, optimizer: Optimizer, model: nn.Module) -> None:
        self.optimizer, self.model, self.norms = optimizer, model, list[float]()

    def steps(self) -> list[float]:
        losses = []
        for number, (inputs, labels) in enumerate(digits()):
            loss = F.cross_entropy(self.model(inputs), labels) / 2
            loss.backward()
            losses.append(float(loss.detach()))
            if number % 2:
                norm = nn.utils.clip_grad_norm_(self.model.parameters(), 0.1)
                self.norms.append(float(norm))
                self.optimizer.step()
                self.optimizer.zero_grad()
        return losses


@pytest.mark.parametrize("how", ["product", "soft-threshold"])
def test_accumulated_and_clipped_gradients(how: str) -> None:
    found = []
    for storage in STORAGES:
        model = applied(storage, "random", parameterization=how)
        loop = Accumulating(sgd(model.parameters()), model)
        found.append((loop.steps(), loop.norms))
    (losses, norms), (living_losses, living_norms) = found
    assert losses == pytest.approx(living_losses, rel=1e-6)
    # The norm is that of the factors; dead ones have no gradient in either storage.
    assert norms == pytest.approx(living_norms, rel=1e-6)
    assert max(norms) > 0.1, "there was nothing to clip"


def test_clipping_is_a_part_of_the_law() -> None:
    results = []
    for storage in STORAGES:
        model = applied(storage)
        results.append(train(model, adamw(model.parameters()), 50, clip=0.1))
    check_twins(*results)


@pytest.mark.parametrize("scale", [2.0**16, 2.0**127])
def test_a_scaler_of_gradients(scale: float) -> None:
    """Also where steps are left out, since scaled gradients are infinite."""
    results = []
    for storage in STORAGES:
        model = applied(storage)
        optimizer = sgd(model.parameters())
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=3)
        result = Trained(model, optimizer)
        for inputs, labels in digits():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), labels)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            result.losses.append(float(loss.detach()))
        results.append(result)
    check_twins(*results)


def test_closures() -> None:
    """L-BFGS calls a closure several times a step, and keeps one history over all parameters."""
    results = []
    inputs, labels = digits()[0]
    for storage in STORAGES:
        model = applied(storage).eval()
        optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)

        def closure(model: nn.Module = model, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), labels)
            loss.backward()
            return loss

        losses = [float(optimizer.step(closure).detach()) for _ in range(5)]
        results.append(Trained(model, optimizer, losses))
    # Inner products of whole histories are summed in another order.
    check_twins(*results, relative=1e-4)


def test_histories_restart_where_masks_change() -> None:
    """One history over all parameters cannot go on with vectors of other lengths."""
    model = applied("living", "gmp")
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)
    scheduler = scheduled(model, optimizer)
    for inputs, labels in digits()[: scheduler.steps]:

        def closure(x: Tensor = inputs, y: Tensor = labels) -> Any:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)
        scheduler.step()
    assert scheduler.finished


PENALTIES = ("frobenius", "l2", "l1", "factors", "pilot", "gates", "thresholds")


@pytest.mark.slow
@pytest.mark.parametrize("penalty", PENALTIES)
def test_penalties(penalty: str) -> None:
    how = {"gates": "hard-concrete", "thresholds": "soft-threshold"}
    options = {"parameterization": how.get(penalty, "product"), "penalty": penalty}
    results = []
    for storage in STORAGES:
        model = applied(storage, "random", **options)
        optimizer = sgd(model.parameters())
        scheduler = scheduled(model, optimizer, epochs=10)
        assert float(scheduler.penalty().detach()) > 0
        results.append(train(model, optimizer, 50, scheduler))
    check_twins(*results)


@pytest.mark.slow
@pytest.mark.parametrize("how", PARAMETERIZATIONS)
def test_groups_of_parameters_keep_their_weight_decay(how: str) -> None:
    results = []
    for storage in STORAGES:
        model = applied(storage, "random", parameterization=how)
        groups = sparsify_fx.parameter_groups(model, weight_decay=0.05)
        counts = [len(group["params"]) for group in groups]
        results.append((counts, train(model, torch.optim.AdamW(groups, lr=2e-3), 50)))
    (counts, full), (living_counts, living) = results
    assert counts == living_counts
    check_twins(full, living)
