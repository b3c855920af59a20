"""Whole schedules in living storage: masks bit-equal, losses those of full storage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import Optimizer

from sparsify_fx.programs.owners import programs
from tests.living.common import (
    STORAGES,
    Trained,
    adamw,
    applied,
    check_twins,
    scheduled,
    sgd,
    train,
)

METHODS = (
    "lrr",
    "wr",
    "imp",
    "gmp",
    "acdc",
    "rigl",
    "set",
    "lrr+signin",
    "wr+signin",
    "imp+signin",
    "gmp+signin",
    "acdc+signin",
    "rigl+signin",
    "set+signin",
)
OPTIMIZERS = {"sgd": sgd, "adamw": adamw}
FAST = {("rigl+signin", "sgd"), ("acdc+signin", "adamw"), ("gmp", "sgd")}


def pairs() -> list[Any]:
    found = []
    for method in METHODS:
        for optimizer in OPTIMIZERS:
            marks = [] if (method, optimizer) in FAST else [pytest.mark.sweep]
            found.append(pytest.param(method, optimizer, marks=marks))
    return found


def trained(
    storage: str, method: str, make: Callable[[Any], Optimizer], **options: Any
) -> Trained:
    model = applied(storage, method, **options)
    optimizer = make(model.parameters())
    return train(model, optimizer, 1000, scheduled(model, optimizer), clip=0.1)


@pytest.mark.cross_section("gmp-sgd")
@pytest.mark.parametrize(("method", "optimizer"), pairs())
def test_schedules_are_the_same_in_both_storages(method: str, optimizer: str) -> None:
    full, living = (trained(s, method, OPTIMIZERS[optimizer]) for s in STORAGES)
    check_twins(full, living)
    for program in programs(living.model).values():
        count = int(program.mask.count_nonzero())
        for factor in program.factor_tensors().values():
            # One more where a vector of this length would broadcast to the weight.
            assert factor.numel() in (count, count + 1)
            state = living.optimizer.state[factor]
            assert {t.shape for t in state.values() if t.dim()} == {factor.shape}


def test_vectors_keep_their_length_where_the_number_of_weights_stays() -> None:
    model = applied("living", "rigl")
    before = [p.shape for p in model.parameters()]
    addresses = [p.data_ptr() for p in model.parameters()]
    masks = [p.mask.clone() for p in programs(model).values()]
    optimizer = sgd(model.parameters())
    train(model, optimizer, 1000, scheduled(model, optimizer))
    assert [p.shape for p in model.parameters()] == before
    assert [p.data_ptr() for p in model.parameters()] == addresses
    now = [p.mask for p in programs(model).values()]
    assert any(not torch.equal(a, b) for a, b in zip(masks, now, strict=True))
