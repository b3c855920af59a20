"""The law of living storage: the numbers are those of full storage, for every parameterization and optimizer."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_optimizer
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import Optimizer

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
    """Every parameterization with every optimizer; a few of them in the fast tests."""
    found = []
    for pair in itertools.product(PARAMETERIZATIONS, OPTIMIZERS):
        marks = [] if pair in FAST else [pytest.mark.slow]
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


@pytest.mark.parametrize(("how", "optimizer"), pairs())
def test_200_steps_are_the_same_in_both_storages(how: str, optimizer: str) -> None:
    # Rounding of Adam's root differs with the place of an entry in its vector register, and 200 steps carry it on.
    make = OPTIMIZERS[optimizer]
    check_twins(*(trained(storage, how, make) for storage in STORAGES))
