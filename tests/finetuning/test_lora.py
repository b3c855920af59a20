"""LoRA of peft on merged sparse models: what is trained is what is merged, and zeros stay zero."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from timm.layers import Conv2dSame, ScaledStdConv2d, StdConv2d
from torch import nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

import sparsify_fx
from sparsify_fx.errors import LayerError, MethodError, SparsifyError
from sparsify_fx.finetuning import mask_lora, merge_lora
from tests.conftest import batch, small_net


def sparse_net() -> nn.Sequential:
    return sparsify_fx.merge(sparsify_fx.apply(small_net(), "random", sparsity=0.8))


def adapted(model: nn.Module, **options: Any) -> Any:
    given = {"r": 4, "lora_alpha": 16, "target_modules": ["0", "7"]} | options
    return get_peft_model(model, LoraConfig(**given))


def train(model: nn.Module, steps: int = 5) -> None:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.5)
    for step in range(steps):
        inputs, labels = batch(step)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()


def test_what_is_trained_masked_is_what_is_merged() -> None:
    plain = sparse_net()
    before = {k: v.clone() for k, v in plain.state_dict().items()}
    model = mask_lora(mask_lora(adapted(plain)))  # twice is once
    train(model)
    model.eval()
    tuned = model(batch()[0])
    merged, report = merge_lora(model)
    torch.testing.assert_close(merged(batch()[0]), tuned, rtol=1e-4, atol=1e-4)
    for name in ("0", "7"):
        weight, old = merged.state_dict()[f"{name}.weight"], before[f"{name}.weight"]
        assert torch.equal(weight == 0, old == 0), name
        assert not torch.equal(weight, old)
        assert 0 < report.kept[name] < 1
    assert report.zeros == sum(int((before[f"{n}.weight"] == 0).sum()) for n in "07")
    assert "of the update is kept in" in str(report)


def test_without_masks_in_training_the_merge_says_what_it_costs() -> None:
    model = adapted(sparse_net())
    train(model)
    model.eval()
    tuned = model(batch()[0])
    merged, report = merge_lora(model)
    # Four of five weights are zero, and an update has about as much there as elsewhere.
    assert 0.05 < min(report.kept.values()) < 0.5
    assert float((merged(batch()[0]) - tuned).detach().abs().max()) > 1e-2
    assert (
        int((merged[7].weight == 0).sum()) + int((merged[0].weight == 0).sum())
        == report.zeros
    )
    # keep-zeros goes on from there.
    sparsify_fx.apply(merged, "keep-zeros")


@pytest.mark.parametrize("kind", [ScaledStdConv2d, StdConv2d])
def test_layers_that_standardize_their_weight_are_refused(kind: Any) -> None:
    net = nn.Sequential(kind(8, 8, 3), nn.Linear(4, 4))
    net[0].weight.data[:, 4:] = 0
    model = adapted(net, target_modules=["0"])
    before = copy.deepcopy(model.state_dict())
    for function in (mask_lora, merge_lora):
        with pytest.raises(MethodError, match=f"0 is a {kind.__name__}.*not linear"):
            function(model)
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_convolutions_that_pad_in_their_own_way_are_merged() -> None:
    net = nn.Sequential(Conv2dSame(3, 8, 3, stride=2), nn.Flatten(), nn.Linear(128, 10))
    net[0].weight.data[:, 1] = 0
    model = mask_lora(adapted(net, target_modules=["0"], init_lora_weights=False))
    x = batch()[0]
    tuned = model.eval()(x)
    torch.testing.assert_close(merge_lora(model)[0](x), tuned, rtol=1e-4, atol=1e-4)


def test_an_adapter_that_is_switched_off_or_untrained_changes_nothing() -> None:
    plain = sparse_net().eval()
    expected = plain(batch()[0])
    model = mask_lora(adapted(copy.deepcopy(plain), init_lora_weights=False)).eval()
    with model.disable_adapter():
        assert torch.equal(model(batch()[0]), expected)
    merged, report = merge_lora(adapted(copy.deepcopy(plain)))
    assert torch.equal(merged(batch()[0]), expected)
    assert set(report.kept.values()) == {1.0}


@pytest.mark.slow
# peft reads an attribute that transformers calls by another name now.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_layers_of_gpt2_keep_their_zeros() -> None:
    config = GPT2Config(vocab_size=50, n_positions=8, n_embd=16, n_layer=1, n_head=2)
    model = sparsify_fx.apply(GPT2LMHeadModel(config), "random", sparsity=0.7)
    plain = sparsify_fx.merge(model)
    model = get_peft_model(
        plain,
        LoraConfig(
            r=2,
            target_modules=["c_attn"],
            fan_in_fan_out=True,
            init_lora_weights=False,
        ),
    )
    zeros = plain.transformer.h[0].attn.c_attn.get_base_layer().weight == 0
    tokens = torch.arange(8)[None]
    tuned = mask_lora(model).eval()(tokens).logits
    merged, _ = merge_lora(model)
    assert torch.equal(merged.transformer.h[0].attn.c_attn.weight == 0, zeros)
    torch.testing.assert_close(merged(tokens).logits, tuned, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: adapted(sparse_net(), use_dora=True),
            MethodError,
            "a variant of LoRA",
        ),
        (
            lambda: adapted(sparse_net(), lora_dropout=0.1),
            MethodError,
            "lora_dropout=0",
        ),
        (lambda: adapted(small_net()), LayerError, "none of the adapted layers has"),
        (sparse_net, LayerError, "has no LoRA layer"),
        (
            lambda: adapted(
                sparsify_fx.apply(small_net(), "random"), target_modules=["7"]
            ),
            LayerError,
            "still rewritten",
        ),
    ],
    ids=["dora", "dropout", "dense", "plain", "rewritten"],
)
def test_what_cannot_be_masked_is_refused(
    make: Any, error: type[SparsifyError], message: str
) -> None:
    model = make()
    with pytest.raises(error, match=re.escape(message)):
        mask_lora(model)
    assert not any(module._forward_hooks for module in model.modules())
