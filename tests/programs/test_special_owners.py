"""Owners beyond convolutions and linear layers, each with the failure that it would have without care."""

from __future__ import annotations

import copy
import operator
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.ao.nn.quantized.dynamic
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import sparsify_fx
from sparsify_fx.errors import LayerError
from sparsify_fx.masks import kept_count
from sparsify_fx.programs.owners import programs
from tests.conftest import effective

pytestmark = pytest.mark.filterwarnings(
    "ignore:LSTM with projections is not supported with oneDNN"
)  # torch's own


class Attention(nn.Module):
    """Self-attention, or attention to keys and values of other widths (three separate projections)."""

    def __init__(self, width: int | None) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(
            8, 2, kdim=width, vdim=width, batch_first=True
        )
        self.width = width or 8

    def forward(self, x: Tensor) -> Tensor:
        other = x if self.width == 8 else x[..., : self.width]
        return self.attention(x, other, other)[0]


class Recurrent(nn.Module):
    """A recurrent layer that returns its output only."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


class Loose(nn.Module):
    """A matrix that no layer owns."""

    def __init__(self) -> None:
        super().__init__()
        self.w_g = nn.Parameter(torch.randn(8, 8))
        self.fc = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) @ self.w_g


class Bilinear(nn.Bilinear):
    def __init__(self) -> None:
        super().__init__(8, 8, 4)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, x)


class Cells(nn.Module):
    """Cells are stepped by hand, and read their weights at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (
            nn.LSTMCell(8, 6),
            nn.GRUCell(6, 6),
            nn.RNNCell(6, 6),
        )

    def forward(self, x: Tensor) -> Tensor:
        state, h, g = None, None, None
        for step in x.unbind(1):
            state = self.first(step, state)
            h = self.second(state[0], h)
            g = self.third(h, g)
        assert g is not None
        return g


SPECIAL = {
    "attention": (lambda: Attention(None), 2),
    "attention with other widths": (lambda: Attention(4), 4),
    "encoder layer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
        4,
    ),
    "lstm": (
        lambda: Recurrent(
            nn.LSTM(8, 6, num_layers=2, bidirectional=True, batch_first=True)
        ),
        8,
    ),
    "lstm with projection": (
        lambda: Recurrent(nn.LSTM(8, 6, proj_size=3, batch_first=True)),
        3,
    ),
    "gru": (lambda: Recurrent(nn.GRU(8, 6, batch_first=True)), 2),
    "rnn": (lambda: Recurrent(nn.RNN(8, 6, bias=False, batch_first=True)), 2),
    "bilinear": (Bilinear, 1),
    "cells": (Cells, 6),
}


def build(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return SPECIAL[name][0](), torch.randn(3, 5, 8)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", SPECIAL)
def test_the_output_is_that_of_the_effective_weights(name: str, training: bool) -> None:
    """Fast paths and cached weight lists would go on with the old weights."""
    model, inputs = build(name)
    model.train(training)
    expected = model(inputs)
    sparsify_fx.apply(model, "signin", sparsity=0.0)
    assert len(programs(model)) == SPECIAL[name][1]
    with torch.no_grad():
        torch.testing.assert_close(model(inputs), expected, rtol=1e-5, atol=1e-6)
        for program in programs(model).values():
            program.write(torch.zeros_like(program.theta()))
        changed = model(inputs)
    assert not torch.allclose(changed, expected, atol=1e-3)


@pytest.mark.parametrize("name", SPECIAL)
def test_it_trains_prunes_copies_and_merges(name: str) -> None:
    model, inputs = build(name)
    keys, classes = (
        list(model.state_dict()),
        [type(module) for module in model.modules()],
    )
    sparsify_fx.apply(model, "lrr+signin", sparsity=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=1, steps_per_epoch=2)
    while not scheduler.finished:
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        for program in programs(model).values():
            mask = program.current_mask()
            assert mask is not None
            for factor in program.factor_tensors().values():
                assert factor.grad is not None
                assert factor.grad.isfinite().all()
                assert (factor.grad[mask == 0] == 0).all()
        optimizer.step()
        scheduler.step()
    assert scheduler.nonzeros() == kept_count(scheduler.total_weights, 0.5)
    model.eval()
    expected, weights = model(inputs), effective(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(twin(inputs), expected, rtol=0, atol=0)
    assert list(sparsify_fx.dense_state_dict(model)) == keys
    sparsify_fx.merge(model)
    assert [type(module) for module in model.modules()] == classes
    assert list(model.state_dict()) == keys
    assert all(
        torch.equal(model.get_parameter(key), weight) for key, weight in weights.items()
    )
    torch.testing.assert_close(model(inputs), expected, rtol=1e-5, atol=1e-6)
    model(inputs).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


class Names(TorchDispatchMode):
    """Records the names of all operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.seen.add(str(func))
        return func(*args, **(kwargs or {}))


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.TransformerEncoder(layer, 2)


FAST: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "layer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        "_transformer_encoder_layer_fwd",
    ),
    "encoder": (encoder, "_transformer_encoder_layer_fwd"),
    "attention": (lambda: Attention(None), "_native_multi_head_attention"),
}


@pytest.mark.parametrize("name", FAST)
@pytest.mark.filterwarnings(
    "ignore:The PyTorch API of nested tensors is in prototype"
)  # of the padded fast path
@pytest.mark.parametrize("padded", [True, False])
def test_the_inference_fast_path_is_taken_and_sees_the_effective_weight(
    name: str, padded: bool
) -> None:
    """The fused kernels read the weights of all layers from outside; a rewritten `forward` would be passed over."""
    torch.manual_seed(0)
    make, kernel = FAST[name]
    model, inputs = make().eval(), torch.randn(3, 5, 8)
    given = (
        {"src_key_padding_mask": torch.arange(5).expand(3, 5) > 3}
        if padded and name != "attention"
        else {}
    )
    sparsify_fx.apply(model, "random", sparsity=0.5)
    slow = model(inputs, **given)  # with gradients enabled the fast path is not taken
    with torch.no_grad(), Names() as operators:
        fast = model(inputs, **given)
    assert any(kernel in operator for operator in operators.seen)
    torch.testing.assert_close(fast[:, :4], slow[:, :4], rtol=1e-4, atol=1e-5)
    merged = sparsify_fx.merge(copy.deepcopy(model))
    torch.testing.assert_close(
        merged(inputs, **given)[:, :4], slow[:, :4], rtol=1e-4, atol=1e-5
    )
    for program in programs(model).values():
        program.set_mask(torch.zeros_like(program.theta()))
    with torch.no_grad():
        assert not torch.allclose(
            model(inputs, **given)[:, :4], fast[:, :4], rtol=1e-2, atol=1e-3
        ), "read anew each time"


def test_embeddings_and_loose_matrices_are_pruned_on_request_only() -> None:
    model = nn.Sequential(nn.Embedding(10, 8), Loose())
    assert list(programs(sparsify_fx.apply(copy.deepcopy(model), "random"))) == [
        "1.fc.weight"
    ]
    for include, names in (
        (nn.Embedding, ["0.weight"]),
        ("1.w_g", ["1.w_g"]),
        (["*.w_g", "1.fc"], ["1.fc.weight", "1.w_g"]),
    ):
        chosen = sparsify_fx.apply(
            copy.deepcopy(model), "signin", sparsity=0.5, include=include
        )
        assert sorted(programs(chosen)) == names
        tokens = torch.tensor([[1, 2, 3]])
        chosen(tokens).sum().backward()
        merged = sparsify_fx.merge(copy.deepcopy(chosen))
        torch.testing.assert_close(merged(tokens), chosen(tokens))
        assert list(merged.state_dict()) == list(model.state_dict())
    bag = nn.Sequential(nn.EmbeddingBag(10, 8))
    sparsify_fx.apply(bag, "random", sparsity=0.5, include=nn.EmbeddingBag)
    assert int((bag(torch.arange(10).reshape(10, 1)) != 0).sum()) == 40


def test_a_weight_tied_to_an_embedding_stays_one_weight() -> None:
    model = nn.Sequential(nn.Embedding(12, 8), nn.Linear(8, 12, bias=False))
    model[1].weight = model[0].weight
    sparsify_fx.apply(model, "signin", sparsity=0.5)
    assert len(programs(model)) == 1
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.arange(12)).square().sum().backward()
    optimizer.step()
    assert torch.equal(model[0].weight, model[1].weight)
    assert int((model[0].weight != 0).sum()) == 48
    sparsify_fx.merge(model)
    assert model[0].weight is model[1].weight


def test_scripted_modules_are_refused_with_the_reason() -> None:
    with pytest.warns((FutureWarning, DeprecationWarning), match="deprecated"):
        scripted = torch.jit.script(nn.Linear(2, 2))
    with pytest.raises(
        LayerError,
        match=r"0 is scripted, its code is fixed; rewrite the model before scripting",
    ):
        sparsify_fx.apply(nn.Sequential(scripted, nn.Linear(2, 2)))


@pytest.mark.filterwarnings(
    "ignore:torch.quantize_per_tensor", "ignore:torch.quantize_per_channel"
)
@pytest.mark.filterwarnings(
    "ignore:torch.ao.quantization is deprecated", "ignore:Please use quant_min"
)
@pytest.mark.parametrize(
    "kind",
    [
        "Linear",
        "Conv2d",
        "Embedding",
        "dynamic.Linear",
        "dynamic.LSTM",
        "dynamic.GRUCell",
    ],
)
def test_quantized_modules_are_refused_with_the_reason(kind: str) -> None:
    """Without care a packed recurrent layer would be passed over as if it were sparse, or fail in the first forward."""
    quantized = operator.attrgetter(kind)(torch.ao.nn.quantized)(
        2, 2, *([1] if kind == "Conv2d" else [])
    )
    model = nn.Sequential(nn.Linear(2, 2), quantized)
    with pytest.raises(LayerError, match="1 is quantized, its weight is packed"):
        sparsify_fx.apply(model)
    assert type(model[0]) is nn.Linear
