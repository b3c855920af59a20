"""bench: the cost of sparse training beside dense training, measured here and now."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from sparsify_fx.api import apply
from sparsify_fx.errors import ConfigError
from sparsify_fx.training_cost.memory import Memory, memory_of
from sparsify_fx.training_cost.prune_events import through_schedules
from sparsify_fx.training_cost.result import AGAIN, DENSE, CaseCost, Cost
from sparsify_fx.training_cost.setting import Setting
from sparsify_fx.training_cost.surroundings import surroundings
from sparsify_fx.training_cost.timing import (
    clock_of,
    first_step,
    in_turn,
)
from sparsify_fx.training_cost.trainee import Case, Trainee

_LOG = logging.getLogger(__name__)


def bench(
    work: str = "mlp",
    *,
    method: str = "signin",
    sparsity: float = 0.9,
    storage: Sequence[str] = ("full", "living"),
    batch: int = 64,
    optimizer: str = "sgd-momentum",
    compile: bool = False,
    rounds: int = 21,
    seed: int = 0,
    device: str = "cpu",
    image_size: int | None = None,
    threads: int = 1,
) -> Cost:
    """Measure steps, prune events and memory of sparse trainings beside a dense one.

        of dense = median time of a sparse step / median time of a dense step

    A step is zero_grad, forward, cross-entropy, backward, optimizer. Every round takes one of each training, and dense
    is there twice, so that its second ratio shows the noise. Methods that prune in the training are brought to the end
    of their schedule first, without training, and each mask update is timed. Weights and data are random.

    Args:
        work: "mlp" (1024-2048-2048-10), or a model of the zoo, torchvision or timm.
        method: as in `apply`; so is sparsity.
        storage: one sparse training for each of these, see `apply`.
        batch: rows of a batch, at least 2.
        optimizer: "sgd-momentum" or "adamw".
        compile: with torch.compile; the first step then takes what compiling takes, without any cache.
        rounds: steps of each that are timed, by processor time in seconds; on a GPU by wall time.
        seed: of weights, data and masks.
        device: "cpu", "cuda", "cuda:1", ...
        image_size: side of the images in pixels; None: 32 for models of the zoo, 224 for others.
        threads: of torch, while this runs.

    Memory is measured on uncompiled models, see `Memory`.

    Raises ConfigError and UnknownNameError for what cannot be, and what `apply` raises.

    >>> cost = bench("lenet300", batch=2, rounds=1, storage=["living"])
    >>> list(cost.cases)
    ['dense', 'signin living', 'dense again']
    """
    if rounds < 1 or threads < 1:
        raise ConfigError(f"rounds={rounds} and threads={threads} must be at least 1")
    setting = Setting(work, batch, optimizer, compile, seed, device, image_size)
    sparse = [
        sparse_case(setting, method, sparsity, each) for each in dict.fromkeys(storage)
    ]
    with _threads(threads):
        costs = compare(setting, sparse, rounds)
        return Cost(setting, method, sparsity, costs, surroundings(device))


def sparse_case(setting: Setting, method: str, sparsity: float, storage: str) -> Case:
    """A training by a method, in this storage."""
    return Case(
        f"{method} {storage}", partial(_sparse, setting, method, sparsity, storage)
    )


def _sparse(setting: Setting, method: str, sparsity: float, storage: str) -> nn.Module:
    return apply(
        setting.model(),
        method,
        sparsity=sparsity,
        batches=[setting.data()],
        loss_fn=F.cross_entropy,
        seed=setting.seed,
        storage=storage,
    )


def compare(
    setting: Setting, sparse: Sequence[Case], rounds: int, memory: bool = True
) -> dict[str, CaseCost]:
    """The costs of these trainings, of a dense one before them, and of the same once more after them."""
    dense, again = Case(DENSE, setting.model), Case(AGAIN, setting.model)
    cases = [dense, *sparse, again]
    # A compiler that has seen a model before may take it for a variant of that.
    torch._dynamo.reset()
    trainees, first, made = [], {}, {}
    for case in cases:
        _LOG.info("%s: first step", case.name)
        trainees.append(Trainee(case, setting))
        first[case.name] = first_step(trainees[-1])
        made[case.name] = trainees[-1].graphs

    # Before the rounds: a step costs what it does at the sparsity that was asked for.
    clock = clock_of(setting.device)
    events = through_schedules(trainees, clock)
    _LOG.info("%d rounds", rounds)
    steps = in_turn(trainees, rounds, clock)
    costs = {}
    for case, trainee in zip(cases, trainees, strict=True):
        found = None
        if memory and case is not again:
            _LOG.info("%s: memory", case.name)
            found = _memory(case, trainee)
        costs[case.name] = CaseCost(
            steps=steps[case.name],
            first_step=first[case.name],
            graphs=made[case.name],
            recompiles=trainee.graphs - made[case.name],
            prune_events=events.get(case.name, []),
            memory=found,
        )
    return costs


def _memory(case: Case, trainee: Trainee) -> Memory:
    if not trainee.setting.compile:
        return memory_of(trainee)
    plain = Trainee(case, replace(trainee.setting, compile=False))
    plain.step()
    through_schedules([plain], clock_of(trainee.setting.device))
    return memory_of(plain)


@contextmanager
def _threads(wanted: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)
