"""Hugging Face models in tiny random configurations: nothing is downloaded."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor, nn

import sparsify_fx
from sparsify_fx.masks import kept_count
from sparsify_fx.programs.owners import programs
from tests.conftest import effective

pytestmark = pytest.mark.slow

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
TOKENS = torch.arange(12).reshape(2, 6)


def bert() -> nn.Module:
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(vocab_size=50, **SMALL)
    )


def gpt2() -> nn.Module:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2)
    )


def llama() -> nn.Module:
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=50, num_key_value_heads=1, **SMALL)
    )


def vit() -> nn.Module:
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(image_size=8, patch_size=4, **SMALL)
    )


MODELS = {"bert": bert, "gpt2": gpt2, "llama": llama, "vit": vit}


def logits(name: str, model: nn.Module) -> Tensor:
    inputs = (
        torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        if name == "vit"
        else TOKENS
    )
    return model(inputs).logits


@pytest.mark.parametrize("name", MODELS)
def test_it_computes_trains_prunes_and_merges(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    keys, before = list(model.state_dict()), logits(name, model)
    dense = sparsify_fx.apply(copy.deepcopy(model), "signin", sparsity=0.0)
    torch.testing.assert_close(logits(name, dense), before, rtol=1e-5, atol=1e-6)

    sparsify_fx.apply(model, "lrr+signin", sparsity=0.6)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=1, steps_per_epoch=2)
    while not scheduler.finished:
        optimizer.zero_grad()
        logits(name, model).logsumexp(-1).mean().backward()
        for program in programs(model).values():
            mask = program.current_mask()
            assert mask is not None
            for factor in program.parameters():
                assert factor.grad is not None
                assert factor.grad.isfinite().all()
                assert (factor.grad[mask == 0] == 0).all()
        optimizer.step()
        scheduler.step()
    assert scheduler.nonzeros() == kept_count(scheduler.total_weights, 0.6)
    expected, weights = logits(name, model), effective(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(logits(name, twin), expected, rtol=0, atol=0)
        assert list(programs(twin)) == list(programs(model))
    assert list(sparsify_fx.dense_state_dict(model)) == keys
    sparsify_fx.merge(model)
    assert list(model.state_dict()) == keys
    assert all(
        torch.equal(model.get_parameter(key), weight) for key, weight in weights.items()
    )
    torch.testing.assert_close(logits(name, model), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_in_training_mode_it_draws_the_same_random_numbers(name: str) -> None:
    torch.manual_seed(0)
    original = MODELS[name]().train()
    model = sparsify_fx.apply(copy.deepcopy(original), "signin", sparsity=0.0)
    results = []
    for each in (original, model):
        torch.manual_seed(1)
        results.append(logits(name, each))
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings(
    "ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning"
)  # its name until v5
@pytest.mark.parametrize("name", MODELS)
def test_gradient_checkpointing_changes_nothing(name: str) -> None:
    """Recomputation counts what the forward saved; a weight that was kept from elsewhere would be missing."""
    torch.manual_seed(0)
    model = sparsify_fx.apply(MODELS[name](), "signin", sparsity=0.5)
    model.train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        torch.manual_seed(1)
        with sparsify_fx.shared_weights():
            logits(name, model).square().mean().backward()
        gradients.append(
            {
                key: p.grad.clone()
                for key, p in model.named_parameters()
                if p.grad is not None
            }
        )
    assert gradients[0].keys() == gradients[1].keys()
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.cross_section("bert")
@pytest.mark.filterwarnings(
    "ignore::sparsify_fx.errors.UnfinishedWarning"
)  # masks of its own
@pytest.mark.parametrize("name", MODELS)
def test_it_is_exported_and_checked_in_onnxruntime(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = sparsify_fx.apply(MODELS[name]().eval(), "signin", sparsity=0.6)
    for program in programs(model).values():
        program.set_mask(
            torch.arange(program.theta().numel()).reshape(program.theta().shape) % 2
        )
    example = (torch.randn(2, 3, 8, 8) if name == "vit" else TOKENS,)
    kept = sum(int((weight != 0).sum()) for weight in effective(model).values())
    plain = sparsify_fx.export(model, tmp_path / "plain.onnx", example, optimize=False)
    small = sparsify_fx.export(model, tmp_path / "small.onnx", example)
    for report in (plain, small):
        assert report.max_rel_difference is not None
        assert report.max_rel_difference < 1e-4
    # The mask takes every other column, so that half of the channels before it are read by nobody.
    assert small.nonzeros < plain.nonzeros == kept


def test_gpt2_prunes_its_own_convolutions_and_keeps_the_tied_embedding_one_weight() -> (
    None
):
    model = sparsify_fx.apply(gpt2(), "random", sparsity=0.5)
    names = list(programs(model))
    assert "transformer.h.0.attn.c_attn.weight" in names
    assert names.count("transformer.wte.weight") == 1
    assert "lm_head.weight" not in names
    assert torch.equal(model.lm_head.weight, model.transformer.wte.weight)
    sparsify_fx.merge(model)
    assert model.lm_head.weight is model.transformer.wte.weight
