"""Weights [inputs, outputs], as the Conv1D of transformers has them and as `x @ weight` takes them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

import sparsify_fx
from sparsify_fx.coupling.groups import coupled_groups
from sparsify_fx.shrinking import shrink


def gpt2() -> tuple[GPT2LMHeadModel, dict[str, Tensor]]:
    torch.manual_seed(0)
    # As wide as its heads together, so that equal sizes must be told apart.
    config = GPT2Config(
        vocab_size=50,
        n_positions=16,
        n_embd=32,
        n_layer=2,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
    )
    tokens = torch.randint(0, 50, (2, 7))
    return GPT2LMHeadModel(config), {"input_ids": tokens, "use_cache": False}


def test_heads_and_neurons_of_gpt2_go() -> None:
    model, inputs = gpt2()
    sparsify_fx.apply(
        model,
        "magnitude",
        sparsity=0.5,
        granularity="channel",
        allocation="uniform",
        example_inputs=inputs,
    )
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=2, steps_per_epoch=2)
    for _ in range(4):
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    sparsify_fx.merge(model).eval()
    expected = model(**inputs).logits
    shrink(model, inputs, optimizer)
    difference = (model(**inputs).logits - expected).abs().max()
    assert difference <= 1e-5 * expected.abs().max()
    for block in model.transformer.h:
        # Two of the four heads, and about half of the neurons.
        assert (block.attn.c_attn.nx, block.attn.c_attn.nf) == (32, 48)
        assert (block.attn.c_proj.nx, block.attn.c_proj.nf) == (16, 32)
        assert block.mlp.c_fc.weight.shape[1] == block.mlp.c_proj.weight.shape[0] < 70
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    optimizer.step()


class Products(nn.Module):
    """Two matrices as parameters, multiplied in one of the ways to write that; half of the channels are not read."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.way = way
        self.first, self.last = (
            nn.Parameter(torch.randn(*shape)) for shape in ((5, 8), (8, 3))
        )
        self.bias = nn.Parameter(torch.randn(8))
        self.last.data[4:] = 0

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.hidden(x)) @ self.last

    def hidden(self, x: Tensor) -> Tensor:
        if self.way == "addmm":
            return torch.addmm(self.bias, x, self.first)
        if self.way == "scaled":
            return torch.addmm(self.bias, x, self.first, beta=0.5, alpha=2.0)
        if self.way == "mm":
            return torch.mm(x, self.first) + self.bias
        return x @ self.first + self.bias


@pytest.mark.parametrize(
    ("way", "shape"),
    [
        ("addmm", (2, 5)),
        ("scaled", (2, 5)),
        ("mm", (2, 5)),
        ("matmul", (2, 5)),
        ("matmul", (2, 4, 5)),
        ("matmul", (5,)),
    ],
)
def test_matrices_lose_what_is_not_read(way: str, shape: tuple[int, ...]) -> None:
    model, x = Products(way).eval(), torch.randn(*shape)
    expected = model(x)
    shrink(model, x)
    torch.testing.assert_close(model(x), expected, rtol=1e-6, atol=1e-6)
    assert (model.first.shape, model.last.shape, model.bias.shape) == ((5, 4), (4, 3), (4,))  # fmt: skip


class Bilinear(nn.Module):
    """A matrix that is multiplied from the left, and one that two products share."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encode = nn.Linear(5, 6)
        self.between = nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.encode(x)
        return hidden @ self.between @ self.between @ hidden.mT


def test_a_shared_matrix_is_cut_alike_or_stays() -> None:
    model, x = Bilinear().eval(), torch.randn(3, 5)
    model.encode.weight.data[3:] = 0
    model.encode.bias.data[3:] = 0
    model.between.data[3:] = 0
    model.between.data[:, 3:] = 0
    expected = model(x)
    assert coupled_groups(model, x).traced
    shrink(model, x)
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
