"""Schedules with absurd numbers are refused at once, in bounded memory, whoever asks for them."""

from __future__ import annotations

import math
import time
import tracemalloc
from typing import Any

import pytest
import torch
from torch import nn

from sparsify_fx.api import apply
from sparsify_fx.errors import SparsifyError
from sparsify_fx.scheduler.scheduler import Scheduler
from sparsify_fx.schedules import Budget, Cubic, Cycles, RegrowEvery

TINY = 5e-324


def begin(
    method: str, epochs: int, schedule: Any = None, steps_per_epoch: int = 10
) -> Scheduler:
    model = apply(nn.Linear(30, 30), method, sparsity=0.9, schedule=schedule)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Scheduler(model, optimizer, epochs=epochs, steps_per_epoch=steps_per_epoch)


@pytest.mark.parametrize(
    ("method", "epochs", "schedule", "told"),
    [
        (
            "gmp",
            10,
            {"name": "cubic", "every": 1e-9},
            "every=1e-09 makes prunings: 6.5e.08 of at most 100,000",
        ),
        ("gmp", 10, {"name": "cubic", "every": TINY}, "makes prunings: inf of at most"),
        ("gmp", 10**6, None, "give a larger every"),
        (
            "set",
            10,
            {"name": "regrow", "growth": "random", "every": 1e-7},
            "regrow: every=1e-07 makes updates",
        ),
        (
            "set",
            10,
            {"name": "regrow", "growth": "random", "every": TINY},
            "of at most 100,000",
        ),
        (
            "lrr",
            10,
            {"name": "cycles", "keep": 0.9999999},
            "keep=0.9999999 makes cycles: 2.3.*e.07 of at most 10,000",
        ),
        (
            "lrr",
            10,
            {"name": "cycles", "keep": math.nextafter(1, 0)},
            "of at most 10,000",
        ),
        (
            "lrr",
            10**5,
            {"name": "cycles", "keep": 0.99},
            "231 runs of 100000 epochs are 23,100,000 epochs",
        ),
        (
            "acdc",
            10,
            {"name": "alternating", "phase": 1e-12},
            "phase=1e-12 makes phases",
        ),
        ("acdc", 10, {"name": "alternating", "phase": TINY}, "makes phases: inf"),
        ("signin", 10**18, None, "more than the 1,000,000 that a training may have"),
        ("random", 10**18, None, "more than the 1,000,000"),
        ("lrr", 10**18, None, "more than the 1,000,000"),
        ("acdc+signin", 10**400, None, "more than the 1,000,000"),
    ],
)
def test_absurd_numbers(method: str, epochs: int, schedule: Any, told: str) -> None:
    begin(method, 10)  # what is imported and cached counts for nothing
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(SparsifyError, match=told):
        begin(method, epochs, schedule)
    seconds, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 5
    assert peak < 20 * 2**20


def test_usual_schedules_are_far_from_the_limits() -> None:
    assert len(Cubic(every=0.01).updates(Budget(10**6, 0.9, 1000))) == 65_000
    assert len(RegrowEvery(every=0.02).updates(Budget(10**6, 0.9, 1000))) == 37_499
    assert Cycles(keep=0.999).runs(0.9) == 2303
    assert begin("random", 200_000, steps_per_epoch=1).steps == 200_000
