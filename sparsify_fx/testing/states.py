"""The laws of states: they load, training resumes from them bit by bit, and a seed repeats one."""

from __future__ import annotations

import copy

import torch

from sparsify_fx.api import dense_state_dict
from sparsify_fx.errors import MethodError
from sparsify_fx.programs.owners import programs
from sparsify_fx.testing import training
from sparsify_fx.testing.small import (
    alike,
    effective,
    ensure,
    merged_at_once,
    small_net,
    train_step,
)


def states_round_trip(method: str) -> None:
    """A state dict loads into a twin; a dense checkpoint is split; merged keys are the original ones."""
    # 1. A twin with another start. One step first, or equal seeds could hide that nothing was loaded.
    model = training.prepare(method)
    train_step(model, training.sgd(model))
    twin = training.prepare(method, seed=1)
    twin.load_state_dict(copy.deepcopy(model.state_dict()))
    ensure(
        alike(effective(model), effective(twin)),
        f"{method}: a loaded state dict computes other weights",
    )

    # 2. A dense checkpoint: its weights are split into factors as they are loaded, under the given masks.
    dense = small_net(seed=5)
    missing, unexpected = model.load_state_dict(dense.state_dict(), strict=True)
    ensure(
        not missing and not unexpected,
        f"{method}: a dense checkpoint leaves {missing} and {unexpected}",
    )
    for name, weight in effective(model).items():
        mask = programs(model)[name].current_mask()
        expected = dense.get_parameter(name).detach() * (1 if mask is None else mask)
        close = torch.allclose(weight, expected, rtol=3e-7, atol=0)
        ensure(
            close,
            f"{method}: the dense checkpoint of {name} is not what the program computes",
        )

    # 3. Merged, the model is what a user had before, down to the order of the keys.
    keys = list(dense.state_dict())
    with merged_at_once():
        merged = dense_state_dict(model)
    ensure(
        list(merged) == keys,
        f"{method}: merged keys are {list(merged)}, the original ones {keys}",
    )
    dense.load_state_dict(merged, strict=True)


def resumed_training_is_bit_identical(method: str, share: float) -> None:
    """A training that is stopped after `share` of its first run and resumed ends with the same bits."""
    # Copies of the saved states: loading must not let the resumed training write into the record, which
    # other laws look at.
    record = training.straight(method)
    saved = copy.deepcopy(record.saved[training.saved_at(share, record.scheduler)])
    resumed = training.prepare(method)
    optimizer = training.sgd(resumed)
    scheduler = training.schedule(resumed, optimizer)
    resumed.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    scheduler.load_state_dict(saved[2])
    for _ in training.run(resumed, optimizer, scheduler):
        pass
    ensure(
        alike(record.end, resumed.state_dict()),
        f"{method}: resumed after {share:g} runs, it ends with other bits",
    )


def same_seed_gives_same_bits(method: str) -> None:
    """Two trainings with one seed end alike."""
    first, second = training.straight(method).end, training.trained(method).end
    same = alike(first, second)
    ensure(same, f"{method}: two trainings with the same seed end with other bits")


def storages_train_alike(method: str) -> None:
    """Whole tensors, and vectors of living entries, end with the same masks and, to rounding, the same weights."""
    # Without masks, and with thresholds for each channel, there is nothing to leave out.
    try:
        living = training.trained(method, storage="living")
    except MethodError:
        return
    full = training.trained(method, storage="full")
    ensure(
        living.counts == full.counts,
        f"{method}: with storage='living' {living.counts} weights live, else {full.counts}",
    )
    ensure(
        living.stale == 0,
        f"{method}: with storage='living' momentum of {living.stale:g} is left",
    )
    for name, weight in full.weights.items():
        ensure(
            torch.equal(weight == 0, living.weights[name] == 0),
            f"{method}: with storage='living' other entries of {name} are zero",
        )
        ensure(
            torch.allclose(weight, living.weights[name], rtol=1e-4, atol=1e-6),
            f"{method}: with storage='living' {name} ends with other weights",
        )
