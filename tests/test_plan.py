"""The plan: the inputs of `apply` stay with the module that they were given for, and only as long as it lives."""

from __future__ import annotations

import copy
import dataclasses
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.errors import MethodError, UnfinishedWarning
from sparsify_fx.plan import Plan, require_plan
from tests.conftest import batch, small_net


class Batches(list[tuple[torch.Tensor, torch.Tensor]]):
    """A list that can be referred to weakly."""


def scheduler(model: nn.Module) -> sparsify_fx.Scheduler:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return sparsify_fx.Scheduler(model, optimizer, epochs=2, steps_per_epoch=2)


def prepared() -> tuple[nn.Module, Batches]:
    batches = Batches([batch()])
    model = sparsify_fx.apply(
        small_net(), "gmp", criterion="snip", batches=batches, loss_fn=F.cross_entropy
    )
    return model, batches


def test_the_scheduler_of_the_module_has_the_inputs_and_that_of_a_copy_does_not() -> (
    None
):
    model, batches = prepared()
    (track,) = scheduler(model)._tracks
    assert track.pruner.inputs.batches is batches
    twin = copy.deepcopy(model)
    assert require_plan(twin) is require_plan(model)
    with pytest.raises(MethodError, match="snip"):
        scheduler(twin)


def test_inputs_die_with_the_module_although_a_copy_lives() -> None:
    model, batches = prepared()
    watch = weakref.ref(batches)
    twin = copy.deepcopy(model)
    del model, batches
    gc.collect()
    assert watch() is None
    assert not require_plan(twin).inputs


def test_inputs_that_hold_the_model_do_not_keep_it_alive() -> None:
    model, batches = prepared()
    batches.model = model  # type: ignore[attr-defined]
    watch = weakref.ref(model)
    del model, batches
    gc.collect()
    assert watch() is None


def test_inputs_die_with_the_plan_when_the_model_is_merged() -> None:
    model, batches = prepared()
    watch = weakref.ref(batches)
    with pytest.warns(UnfinishedWarning):
        sparsify_fx.merge(model)
    del batches
    gc.collect()
    assert watch() is None


def test_copies_and_pickles_of_a_plan_have_no_inputs() -> None:
    model, _ = prepared()
    plan = require_plan(model)
    others = [
        pickle.loads(pickle.dumps(plan)),
        copy.deepcopy(plan),
        copy.copy(plan),
        dataclasses.replace(plan),
    ]
    for other in others:
        assert other == plan
        assert not other.inputs
    assert len(plan.inputs) == 1


def test_a_pickle_from_before_plans_had_inputs_loads() -> None:
    plan = require_plan(prepared()[0])
    old = object.__new__(Plan)
    old.__setstate__({k: v for k, v in vars(plan).items() if k != "inputs"})
    assert old == plan
    assert not old.inputs
