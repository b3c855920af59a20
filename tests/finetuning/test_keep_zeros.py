"""keep-zeros: whatever is zero is the mask, whoever made it so."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import Tensor, nn
from torch.ao.pruning import WeightNormSparsifier
from torch.nn.utils import prune

import sparsify_fx
from sparsify_fx.errors import (
    CheckpointError,
    LayerError,
    MethodError,
    SparsifyError,
    SparsityError,
)
from sparsify_fx.plan import require_plan
from sparsify_fx.programs.owners import programs
from tests.conftest import batch, small_net, train_step

PRUNED = ("0", "3", "7")


def pruned_by_torch(amount: float = 0.8) -> nn.Sequential:
    """The small net with masks of torch.nn.utils.prune, each layer by itself."""
    model = small_net()
    for name in PRUNED:
        prune.l1_unstructured(model.get_submodule(name), "weight", amount=amount)
    return model


def prepared_by_torch_ao() -> tuple[nn.Sequential, WeightNormSparsifier]:
    """The small net with the masks of a sparsifier, which torchao's Wanda is one of."""
    model = small_net()
    sparsifier = WeightNormSparsifier(sparsity_level=0.5, sparse_block_shape=(1, 4))
    sparsifier.prepare(model, [{"tensor_fqn": "7.weight"}])
    sparsifier.step()
    return model, sparsifier


def zeros(model: nn.Module) -> dict[str, Tensor]:
    """Where the plain weights are zero."""
    return {f"{n}.weight": model.get_submodule(n).weight == 0 for n in PRUNED}


def test_zeros_of_torch_prune_are_the_mask_and_stay_zero() -> None:
    model = sparsify_fx.fold_masks(pruned_by_torch())
    before = zeros(model)
    total = sum(where.numel() for where in before.values())
    found = sum(int(where.sum()) for where in before.values())
    sparsify_fx.apply(model, "keep-zeros")
    assert require_plan(model).sparsity == 1 - (total - found) / total
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=2, steps_per_epoch=3)
    while not scheduler.finished:
        train_step(model, optimizer)
        scheduler.step()
    assert scheduler.nonzeros() == total - found
    sparsify_fx.merge(model)
    for name, where in zeros(model).items():
        assert torch.equal(where, before[name]), name


def test_layers_without_a_zero_stay_dense() -> None:
    model = small_net()
    prune.l1_unstructured(model[3], "weight", amount=0.5)
    sparsify_fx.apply(sparsify_fx.fold_masks(model), "keep-zeros")
    density = {
        name: float(program.current_mask().float().mean())
        for name, program in programs(model).items()
    }
    assert density == {"0.weight": 1.0, "3.weight": 0.5, "7.weight": 1.0}


def test_a_sum_with_signin_keeps_the_zeros_too() -> None:
    model = sparsify_fx.fold_masks(pruned_by_torch())
    before, outputs = zeros(model), model.eval()(batch()[0])
    sparsify_fx.apply(model, "keep-zeros+signin")
    torch.testing.assert_close(model(batch()[0]), outputs)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train_step(model, optimizer)
    sparsify_fx.merge(model)
    assert all((zeros(model)[name] == where).all() for name, where in before.items())


def test_negative_zero_is_a_zero() -> None:
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-0.0, 1.0, 0.0, -2.0]]))
    sparsify_fx.merge(sparsify_fx.apply(model, "keep-zeros"))
    assert model.weight.tolist() == [[0.0, 1.0, 0.0, -2.0]]
    assert not torch.signbit(model.weight[0, 0])


def emptied() -> nn.Module:
    model = nn.Linear(4, 2)
    nn.init.zeros_(model.weight)
    return model


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (small_net(), {}, SparsityError, "none of the 792 prunable weights is zero"),
        (emptied(), {}, SparsityError, "all 8 prunable weights are zero"),
        (
            sparsify_fx.fold_masks(pruned_by_torch()),
            {"allocation": "uniform"},
            MethodError,
            "keep-zeros keeps the zeros where they are; use allocation='global'",
        ),
        (
            sparsify_fx.fold_masks(pruned_by_torch()),
            {"budget": "macs"},
            MethodError,
            "takes the sparsity of the weights as they are; leave it out",
        ),
        (pruned_by_torch(), {}, LayerError, "is not a plain parameter"),
    ],
    ids=["no zero", "all zero", "allocation", "budget", "not folded"],
)
def test_what_has_no_mask_to_keep_is_refused(
    model: nn.Module, options: dict[str, str], error: type[SparsifyError], message: str
) -> None:
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=re.escape(message)):
        sparsify_fx.apply(model, "keep-zeros", **options)
    assert not programs(model)
    assert all(torch.equal(before[key], model.state_dict()[key]) for key in before)


def test_a_sum_with_a_method_that_has_masks_of_its_own_says_what_contradicts() -> None:
    with pytest.raises(MethodError, match="on the axis 'schedule' gmp has"):
        sparsify_fx.apply(pruned_by_torch(), "keep-zeros+gmp")


def test_folding_a_model_and_folding_its_state_give_the_same_weights() -> None:
    model = pruned_by_torch()
    state = sparsify_fx.folded_state_dict(model.state_dict())
    plain = small_net()
    plain.load_state_dict(state)
    sparsify_fx.fold_masks(model)
    assert not model[0]._forward_pre_hooks
    for name, value in model.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name


def test_masks_of_a_sparsifier_are_folded_as_it_would_squash_them() -> None:
    model, _ = prepared_by_torch_ao()
    squashed = copy.deepcopy(model)
    sparsify_fx.fold_masks(model)
    twin, own = prepared_by_torch_ao()
    own.squash_mask()
    assert torch.equal(model[7].weight, twin[7].weight)
    assert type(model[7]) is nn.Linear
    with pytest.raises(CheckpointError, match="whose mask is not in the state"):
        sparsify_fx.folded_state_dict(squashed.state_dict())


def test_what_cannot_be_folded_is_refused_and_nothing_changes() -> None:
    with pytest.raises(LayerError, match=r"has no mask of torch\.nn\.utils\.prune"):
        sparsify_fx.fold_masks(small_net())
    model = pruned_by_torch()
    model[7].weight_mask.fill_(0.5)
    with pytest.raises(
        LayerError, match=r"mask of 7\.weight has values beside 0 and 1"
    ):
        sparsify_fx.fold_masks(model)
    assert "0.weight_orig" in dict(model.named_parameters())
    state = model.state_dict()
    for broken, message in (
        (state, "7.weight_mask has values beside 0 and 1"),
        (state | {"0.weight_mask": torch.ones(1)}, "they are of two models"),
        ({"a_orig": torch.ones(1)}, "a_orig has no a_mask beside it"),
        (small_net().state_dict(), "needs no folding"),
    ):
        with pytest.raises(CheckpointError, match=re.escape(message)):
            sparsify_fx.folded_state_dict(broken)


def test_a_buffer_that_is_called_a_mask_is_left_alone() -> None:
    state = pruned_by_torch().state_dict() | {"attention_mask": torch.full((2,), -9.0)}
    assert sparsify_fx.folded_state_dict(state)["attention_mask"].tolist() == [-9, -9]
