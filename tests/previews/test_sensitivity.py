"""The sensitivity of layers: by hand, with all kinds of batches, and without a trace in the model."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import sparsify_fx
from sparsify_fx import sensitivity
from sparsify_fx.errors import LayerError, MethodError, SparsityError, UnknownNameError

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 2, 0, 1, 2])


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
    )


def test_losses_by_hand() -> None:
    model = net()
    found = sensitivity(
        model, [(X[:4], Y[:4]), (X[4:], Y[4:])], F.cross_entropy, sparsities=(0, 0.5)
    )
    model.eval()
    assert found.dense == pytest.approx(float(F.cross_entropy(model(X), Y).detach()))
    assert [row.losses[0] for row in found.layers] == [found.dense] * 2
    assert found.samples == 6
    with torch.no_grad():
        weight = model[4].weight
        weight[weight.abs() < weight.abs().flatten().sort().values[12]] = 0
        expected = float(F.cross_entropy(model(X), Y))
    assert found.layers[1].losses[1] == pytest.approx(expected)
    assert "4.weight" in str(found)
    assert repr(found).startswith("<Sensitivity: loss ")


def test_no_trace_is_left() -> None:
    model = sparsify_fx.apply(net().train(), "signin", sparsity=0.5)
    before = copy.deepcopy(model.state_dict())
    loader = DataLoader(TensorDataset(X, Y), batch_size=2, shuffle=True)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    sensitivity(model, loader, F.cross_entropy, sparsities=(0.9,))
    assert model.training
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items() if isinstance(v, Tensor))  # fmt: skip
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert (states[2] == np.random.get_state()[1]).all()  # type: ignore[index]


def test_what_is_pruned_stays_pruned() -> None:
    model = sparsify_fx.apply(nn.Linear(4, 3), "random", sparsity=0.5)
    found = sensitivity(model, [(X, Y)], F.cross_entropy, sparsities=(0.5, 0.75))
    assert found.layers[0].losses[0] == found.dense
    assert found.layers[0].losses[1] != found.dense


class Labeled(nn.Module):
    """As models of transformers: named arguments, and a loss in the outputs when labels are among them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        logits = self.layer(x)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return SimpleNamespace(logits=logits, loss=loss)


def test_dicts_tuples_and_iterators() -> None:
    model = Labeled()
    a = sensitivity(model, [{"x": X, "labels": Y}], sparsities=(0.5,))
    b = sensitivity(
        model, iter([((X,), Y)]), lambda o, y: F.cross_entropy(o.logits, y), sparsities=(0.5,)
    )  # fmt: skip
    c = sensitivity(
        model, [{"x": X}], lambda o, _: F.cross_entropy(o.logits, Y), sparsities=[0.5]
    )
    assert a == b == c


def test_the_picture(tmp_path: Path) -> None:
    found = sensitivity(net(), [(X, Y)], F.cross_entropy, sparsities=(0.5, 0.9))
    path = found.save(tmp_path / "picture.svg")
    text = path.read_text()
    assert "0.9" in text
    assert path.name == "picture.svg"
    with pytest.raises(UnknownNameError, match="figure format"):
        found.save(tmp_path / "picture.gif")


@pytest.mark.parametrize(
    ("batches", "more", "error", "told"),
    [
        ([], {}, MethodError, "batches= is empty"),
        ([(X, Y)], {"loss_fn": None}, MethodError, "gave no loss"),
        ([X], {}, MethodError, "pairs or dicts of arguments, got Tensor"),
        ([(X, Y)], {"sparsities": ()}, MethodError, "sparsities= is empty"),
        ([(X, Y)], {"sparsities": (1.0,)}, SparsityError, "fraction in"),
        ([(X, Y)], {"include": "nine"}, LayerError, "unknown layer pattern"),
    ],
)
def test_what_has_no_meaning_is_told(
    batches: list[Any], more: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        sensitivity(net(), batches, **{"loss_fn": F.cross_entropy, **more})
