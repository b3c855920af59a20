"""Attention between sparse layers becomes one operator and comes back; whatever is not quite that stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx import runtime
from tests.runtime import cases

pytestmark = pytest.mark.slow

TOKENS, HEADS, SIZE = 21, 3, 16
X = torch.randn(2, TOKENS, HEADS * SIZE, generator=torch.Generator().manual_seed(5))

Heads = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """As timm without fused attention: the queries are scaled."""
    return (q * SIZE**-0.5 @ k.transpose(-2, -1)).softmax(-1) @ v


def scores_scaled(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return (q @ k.transpose(-2, -1) / SIZE**0.5).softmax(dim=-1) @ v


class Block(nn.Module):
    """One block as in a vision transformer, with a way to attend."""

    def __init__(self, attend: Callable[..., torch.Tensor], seen: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attend, self.seen = attend, seen
        self.norm, self.qkv = (
            nn.LayerNorm(HEADS * SIZE),
            nn.Linear(HEADS * SIZE, 3 * HEADS * SIZE),
        )
        self.proj = nn.Linear(HEADS * SIZE, HEADS * SIZE)

    def forward(
        self, x: torch.Tensor
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        batch, tokens, width = x.shape
        q, k, v = (
            self.qkv(self.norm(x))
            .reshape(batch, tokens, 3, HEADS, SIZE)
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )
        y = (
            self.proj(
                self.attend(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
            )
            + x
        )
        return (y, k) if self.seen else y


class Packaged(nn.Module):
    """PyTorch's own attention, as in torchvision's transformers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.MultiheadAttention(HEADS * SIZE, HEADS, batch_first=True)
        self.after = nn.Linear(HEADS * SIZE, HEADS * SIZE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.inner(x, x, x, need_weights=False)[0]) + x


def exported(module: nn.Module, folder: Path, dynamic: bool = False) -> onnx.ModelProto:
    """With nine weights in ten zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter *= torch.rand(parameter.shape, generator=generator) < 0.1
    path = folder / "block.onnx"
    if dynamic:
        shapes = ({0: torch.export.Dim("images"), 1: torch.export.Dim("tokens")},)
        torch.onnx.export(
            module.eval(), (X,), path, dynamo=True, dynamic_shapes=shapes, verbose=False
        )
    else:
        sparsify_fx.export(module.eval(), path, X, encoding="dense", optimize=False)
    return onnx.load(path)


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def run(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    session = cases.open_session(model.SerializeToString(), runtime.library())
    result: list[np.ndarray] = session.run(None, {session.get_inputs()[0].name: x})
    return result


def check_both_ways(
    model: onnx.ModelProto, sparse: onnx.ModelProto, *shapes: tuple[int, int]
) -> None:
    """The same answers from the sparse model and, bit for bit, from standard operators again."""
    dense = runtime.to_dense(sparse)
    assert not any(node.domain for node in dense.graph.node)
    onnx.checker.check_model(dense, full_check=True)
    for shape in shapes:
        x = np.random.default_rng(shape[0]).standard_normal(
            (*shape, HEADS * SIZE), np.float32
        )
        expected, got, back = run(model, x), run(sparse, x), run(dense, x)
        for one, other, again in zip(expected, got, back, strict=True):
            np.testing.assert_allclose(other, one, atol=1e-5)
            np.testing.assert_array_equal(again, one)


@pytest.mark.cross_section("fused")
@pytest.mark.parametrize("attend", [fused, by_hand, scores_scaled])
def test_attention_becomes_one_operator_and_comes_back(
    attend: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    tmp_path: Path,
) -> None:
    model = exported(Block(attend), tmp_path)
    sparse, names = runtime.to_sparse(model, lambda layer: True)
    assert len(names) == 2
    assert kinds(sparse) == [
        "SparseMatMul",
        "Attention",
        "SparseMatMul",
    ]
    check_both_ways(model, sparse, (2, TOKENS), (5, TOKENS))


def test_attention_of_pytorch_becomes_one_operator(tmp_path: Path) -> None:
    model = exported(Packaged(), tmp_path)
    sparse, _ = runtime.to_sparse(model, lambda layer: True)
    found = [node for node in sparse.graph.node if node.op_type == "Attention"]
    assert [attribute.name for attribute in found[0].attribute].count(
        "tokens_first"
    ) == 1
    assert not {"MatMul", "Softmax", "Gather", "Mul"} & set(kinds(sparse))
    check_both_ways(model, sparse, (2, TOKENS), (5, TOKENS))


def test_tokens_may_be_open(tmp_path: Path) -> None:
    model = exported(Block(fused), tmp_path, dynamic=True)
    sparse, _ = runtime.to_sparse(model, lambda layer: True)
    assert kinds(sparse).count("Attention") == 1
    assert "Softmax" not in kinds(sparse)
    check_both_ways(model, sparse, (2, TOKENS), (1, 40), (3, 5))


def masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=torch.ones(TOKENS, TOKENS).tril().log()
    )


def causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def normed(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(F.layer_norm(q, [SIZE]), k, v)


def sums(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The scores have another reader."""
    scores = q @ k.transpose(-2, -1)
    return scores.softmax(-1) @ v + scores.mean()


def exchanged(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(v, k, q)


def shifted(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k[:, :, 1:], v[:, :, 1:])


def over_queries(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return (q @ k.transpose(-2, -1)).softmax(-2) @ v


def values_scaled(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, 2 * v)


NEAR = [masked, causal, normed, sums, exchanged, shifted, over_queries, values_scaled]


@pytest.mark.cross_section("masked")
@pytest.mark.parametrize("attend", NEAR)
def test_what_is_not_quite_attention_stays(
    attend: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    tmp_path: Path,
) -> None:
    model = exported(Block(attend), tmp_path)
    sparse, names = runtime.to_sparse(model, lambda layer: True)
    assert len(names) == 2
    assert kinds(sparse).count("Softmax") == 1
    assert "Attention" not in kinds(sparse)
    check_both_ways(model, sparse, (2, TOKENS))


def test_heads_that_are_an_output_too_stay(tmp_path: Path) -> None:
    model = exported(Block(fused, seen=True), tmp_path)
    sparse, _ = runtime.to_sparse(model, lambda layer: True)
    assert "Attention" not in kinds(sparse)
    check_both_ways(model, sparse, (2, TOKENS))


def test_attention_alone_makes_no_sparse_file(tmp_path: Path) -> None:
    model = exported(Block(fused), tmp_path)
    sparse, names = runtime.to_sparse(model, lambda layer: False)
    assert names == []
    assert sparse.SerializeToString() == model.SerializeToString()
