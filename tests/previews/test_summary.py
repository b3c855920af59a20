"""The summary of plain, rewritten, living, merged and odd models."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import Tensor, nn

import sparsify_fx
from sparsify_fx import summary
from sparsify_fx.errors import LayerError

X = torch.ones(1, 3, 8, 8)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(8 * 36, 10),
    )  # fmt: skip


def test_a_plain_model() -> None:
    found = summary(net(), X)
    assert [(row.name, row.weights, row.macs) for row in found.layers] == [
        ("0.weight", 216, 216 * 64),
        ("3.weight", 72, 72 * 36),
        ("5.weight", 2880, 2880),
    ]
    assert (found.nonzeros, found.density) == (3168, 1.0)
    assert found.macs == found.macs_left == 216 * 64 + 72 * 36 + 2880
    assert found.other_parameters == 8 + 16 + 8 + 10
    assert repr(found) == (
        "<Summary: Sequential, 3,168 of 3,168 weights (100.00%), 19,296 of 19,296 multiply-adds>"
    )
    assert "give example_inputs=" in str(summary(net()))
    assert json.loads(json.dumps(found.to_dict()))["layers"][1]["macs_left"] == 2592


@pytest.mark.parametrize("storage", ["full", "living"])
@pytest.mark.parametrize("method", ["random", "signin"])
def test_masks_count_in_either_storage_and_zeros_after_merging(
    method: str, storage: str
) -> None:
    model = net()
    sparsify_fx.apply(model, method, sparsity=0.75, storage=storage)
    before = summary(model, X)
    assert before.nonzeros == 792
    assert all(row.pruned for row in before.layers)
    assert f"{method} ends with 792 of 3,168 weights" in str(before)
    after = summary(sparsify_fx.merge(model), X)
    assert after.plans == ()
    assert [row.nonzeros for row in after.layers] == [
        row.nonzeros for row in before.layers
    ]
    assert after.macs_left == before.macs_left
    assert after.other_parameters == before.other_parameters


def test_a_budget_is_told_and_a_part_that_is_not_pruned() -> None:
    model = net()
    sparsify_fx.apply(
        model, "random", exclude="5", budget="macs", sparsity=0.5, example_inputs=X
    )
    text = str(summary(model, X))
    assert "at most 8,208 of 16,416 multiply-adds were asked for" in text
    assert "5.weight (dense)" in text


def test_gates_count_by_their_values() -> None:
    model = sparsify_fx.apply(net(), "str", sparsity=0.5)
    assert summary(model).nonzeros <= 3168


def test_the_model_is_only_read() -> None:
    model = net().train()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    summary(model, X)
    assert model.training
    assert all(torch.equal(before[name], v) for name, v in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.inner = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(self.words(x)))


def test_transformers_with_tied_weights() -> None:
    tokens = torch.zeros(1, 5, dtype=torch.long)
    plain = summary(Tied(), tokens)
    assert plain.other_macs == 2 * 5 * 5 * 8
    rewritten = summary(sparsify_fx.apply(Tied(), "random", sparsity=0.5), tokens)
    assert rewritten.macs == plain.macs
    assert rewritten.weights == plain.weights
    assert rewritten.other_parameters == plain.other_parameters


def test_a_layer_without_weights_and_one_that_is_never_reached() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(4, 2), nn.Linear(3, 3)
            self.empty = nn.Linear(1, 2)
            self.empty.weight = nn.Parameter(torch.empty(2, 0))

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    found = summary(Odd(), torch.ones(1, 4))
    assert [(row.macs, row.density) for row in found.layers] == [(8, 1), (0, 1), (0, 1)]
    assert "unused.weight" in str(found)


def test_what_cannot_be_summed_up_is_told_in_words() -> None:
    with pytest.raises(LayerError, match="run one batch through the model first"):
        summary(nn.Sequential(nn.LazyLinear(3)))
    with pytest.raises(LayerError, match="meta device"):
        summary(nn.Linear(2, 2, device="meta"))
    with pytest.raises(LayerError, match="no prunable weight"):
        summary(nn.Sequential(nn.BatchNorm2d(3)))
    with pytest.raises(LayerError, match="does not take the example inputs"):
        summary(net(), torch.ones(2, 2))
    with pytest.raises(LayerError, match=r"expected a torch\.nn\.Module, got str"):
        summary("resnet50")  # type: ignore[arg-type]
