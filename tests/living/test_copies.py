"""Copies, files and averages of models in living storage."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import sparsify_fx
from sparsify_fx.errors import CheckpointError
from sparsify_fx.onnx_export.inspection.program_weights import program_weights
from sparsify_fx.programs.owners import programs
from sparsify_fx.transfer import masked_state_dict, take_from
from tests.living.common import (
    PARAMETERIZATIONS,
    STORAGES,
    adamw,
    applied,
    check_alike,
    check_same_masks,
    digit_net,
    digits,
    forked,
    scheduled,
    seen,
    sgd,
    storages,
    train,
)


def through_pickle(model: nn.Module) -> Any:
    return pickle.loads(pickle.dumps(model))


def through_file(model: nn.Module) -> Any:
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


COPIES: list[Callable[[Any], Any]] = [copy.deepcopy, through_pickle, through_file]


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("method", ["signin", "lrr+signin"])
def test_copies_train_as_the_original(
    copied: Callable[[Any], Any], method: str
) -> None:
    """With their optimizer: it holds the parameters of the copy."""
    model = applied("living", method)
    optimizer = adamw(model.parameters())
    train(model, optimizer, 3)
    twin, twin_optimizer = (
        copy.deepcopy((model, optimizer))
        if copied is copy.deepcopy
        else (copied(model), None)
    )
    assert {n: p.tolist() for n, p in seen(twin).items()} == {
        n: p.tolist() for n, p in seen(model).items()
    }
    if twin_optimizer is None:
        twin_optimizer = adamw(twin.parameters())
        twin_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    alone = copied is copy.deepcopy and method != "signin"
    assert storages(twin) == {"full" if alone else "living"}
    before = seen(model)
    losses = train(twin, twin_optimizer, 10).losses
    assert all(torch.equal(before[name], now) for name, now in seen(model).items())
    check_alike(train(model, optimizer, 10).losses, losses)


@pytest.mark.parametrize("how", ["average", "exponential"])
def test_averages_under_fixed_masks(how: str) -> None:
    averages = []
    for storage in STORAGES:
        model = applied(storage)
        options = (
            {} if how == "average" else {"multi_avg_fn": get_ema_multi_avg_fn(0.9)}
        )
        average = AveragedModel(model, **options)
        optimizer = sgd(model.parameters())
        for _ in range(5):
            train(model, optimizer, 2)
            average.update_parameters(model)
        assert storages(average) == {storage}
        averages.append(average.module)
    full, living = (seen(model) for model in averages)
    assert all(torch.equal(living[name], weight) for name, weight in full.items())
    train(averages[1], sgd(averages[1].parameters()), 2)


@pytest.mark.parametrize("method", ["rigl", "gmp", "lrr"])
def test_averages_under_changing_masks_are_not_wrong_in_silence(method: str) -> None:
    """Entries of vectors change places; torch averages by parameters, and must find that they do not fit."""
    for sparsity in (0.8, 0.5):
        model = applied("living", method, sparsity=sparsity)
        average = AveragedModel(model)
        with pytest.raises((RuntimeError, ValueError)):
            average.update_parameters(model)


def test_no_vector_broadcasts_to_a_weight_whose_mask_changes() -> None:
    """An average in full storage would take one of ten values for each row, without a word."""
    mask = torch.zeros(10, 10, dtype=torch.uint8)
    mask[:, 0] = 1
    for program in (programs(_linear(mask, "rigl")), programs(_linear(mask, "random"))):
        factor = program["weight"].dense
        changes = program["weight"].plan.changes
        assert factor.shape == (11 if changes else 10, 1)
        assert torch.equal(program["weight"]() != 0, mask == 1)


def _linear(mask: Tensor, method: str) -> nn.Module:
    given = {"batches": [(torch.ones(2, 10), torch.zeros(2).long())]}
    model = sparsify_fx.apply(
        nn.Linear(10, 10),
        method,
        sparsity=0.9,
        storage="living",
        loss_fn=F.cross_entropy,
        **given,
    )
    program = programs(model)["weight"]
    program.set_mask(mask)
    program.write(torch.ones(10, 10))
    return model


@pytest.mark.cross_section(
    "False-dense",
    "False-balanced-product",
    "False-soft-threshold",
    "False-hard-concrete",
    "True-product",
    "True-power-propagation",
    "True-sigmoid-gate",
)
@pytest.mark.parametrize("how", PARAMETERIZATIONS)
@pytest.mark.parametrize("assign", [False, True])
def test_states_are_interchangeable(how: str, assign: bool) -> None:
    for source in STORAGES:
        trained = applied(source, "random", parameterization=how)
        train(trained, sgd(trained.parameters()), 2)
        trained.eval()
        state = trained.state_dict()
        for target in STORAGES:
            other = {"parameterization": how, "seed": 5}
            model = applied(target, "random", **other)
            model.load_state_dict(copy.deepcopy(state), assign=assign)
            model.eval()
            assert storages(model) == {target}
            assert torch.equal(model(digits()[0][0]), trained(digits()[0][0]))
            check_same_masks(model, trained)
            train(model, sgd(model.parameters()), 2)


def test_dense_states_load_and_are_saved() -> None:
    dense = digit_net(3)
    models = [applied(storage) for storage in STORAGES]
    for model in models:
        model.load_state_dict(dense.state_dict())
    saved = [sparsify_fx.dense_state_dict(model) for model in models]
    assert saved[0].keys() == saved[1].keys() == dense.state_dict().keys()
    assert all(torch.equal(saved[1][key], value) for key, value in saved[0].items())
    merged = [sparsify_fx.merge(model.eval()) for model in models]
    assert [type(layer) for layer in merged[1]] == [type(layer) for layer in dense]
    assert torch.equal(merged[0](digits()[0][0]), merged[1](digits()[0][0]))


def test_parts_of_another_run_are_taken() -> None:
    donor = applied("living", "random", seed=7)
    train(donor, sgd(donor.parameters()), 3)
    models = [applied(storage) for storage in STORAGES]
    for model in models:
        take_from(model, masked_state_dict(donor), take=["mask", "weights"])
    full, living = (seen(model) for model in models)
    assert all(torch.equal(living[name], full[name]) for name in full)
    assert storages(models[1]) == {"living"}


@pytest.mark.parametrize("how", PARAMETERIZATIONS)
def test_checkpoints_are_inspected(how: str) -> None:
    counts = []
    for storage in STORAGES:
        state = applied(storage, "random", parameterization=how).state_dict()
        found = {w.name: w.count(state) for w in program_weights(state).values()}
        counts.append({name: (c.size, c.nonzeros) for name, c in found.items()})
    assert counts[0] == counts[1]


def test_a_checkpoint_that_lost_entries_is_refused_in_words() -> None:
    state = applied("living").state_dict()
    key = "6.weight_program."
    for factor in ("m", "w"):
        state[key + factor] = state[key + factor][:-1]
    with pytest.raises(CheckpointError, match=r"entries where the mask keeps"):
        program_weights(state)[key + "m"].count(state)


def test_round_trips_keep_every_bit() -> None:
    for how in PARAMETERIZATIONS:
        model = applied("living", "random", parameterization=how)
        train(model, sgd(model.parameters()), 3)
        again = forked(forked(model, "full"), "living")
        for (name, a), b in zip(
            model.named_parameters(), again.parameters(), strict=True
        ):
            assert torch.equal(a, b), (how, name)
        state = model.state_dict()
        assert all(torch.equal(state[k], v) for k, v in again.state_dict().items())


def test_a_model_without_values_gets_some(tmp_path: Path) -> None:
    model = applied("living").eval()
    state = copy.deepcopy(model.state_dict())
    expected = model(digits()[0][0])
    for assign in (True, False):
        empty = applied("living", seed=3).to("meta")
        assert empty(digits()[0][0].to("meta")).shape == expected.shape
        if not assign:
            # Whatever lies there: no kernel may write beyond a weight.
            empty.to_empty(device="cpu")
            for program in programs(empty).values():
                assert int(program.places().max()) < program.mask.numel()
        empty.load_state_dict(state, assign=assign)
        empty.eval()
        assert torch.equal(empty(digits()[0][0]), expected)


def test_schedules_go_on_in_a_copy() -> None:
    model = applied("living", "gmp")
    optimizer = sgd(model.parameters())
    train(model, optimizer, 1000, scheduled(model, optimizer))
    twin = copy.deepcopy(applied("living", "gmp"))
    optimizer = sgd(twin.parameters())
    train(twin, optimizer, 1000, scheduled(twin, optimizer))
    assert all(torch.equal(a, seen(model)[n]) for n, a in seen(twin).items())
