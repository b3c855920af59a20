"""Half of the multiply-adds of each kind of transformers' models goes by channels, and outputs stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as t
from torch import Tensor, nn

import sparsify_fx

TOKENS = torch.arange(24).reshape(2, 12)
IMAGES = torch.linspace(-1, 1, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64)
# No word has a meaning of its own: the vocabularies are tiny.
WORDS = {
    "vocab_size": 100,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
TEXT = {**WORDS, **SIZES}
GROUPED = {**TEXT, "num_key_value_heads": 2}
STAGES = {"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1]}
GPT = {**WORDS, "n_layer": 2, "n_head": 4}
WHISPER = {
    **WORDS,
    "decoder_start_token_id": 1,
    "d_model": 64,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "num_mel_bins": 8,
    "max_source_positions": 20,
    "max_target_positions": 20,
}
Built = tuple[type[nn.Module], Any, dict[str, Any]]
READ = {"input_ids": TOKENS}
WRITTEN = {"input_ids": TOKENS, "use_cache": False}
SEEN = {"pixel_values": IMAGES}
HEARD = {
    "input_features": torch.linspace(-1, 1, 640).reshape(2, 8, 40),
    "decoder_input_ids": TOKENS,
    "use_cache": False,
}
MODELS: dict[str, Built] = {
    "bert": (t.BertForSequenceClassification, t.BertConfig(**TEXT), READ),
    "bloom": (t.BloomForCausalLM, t.BloomConfig(**GPT, hidden_size=64), WRITTEN),
    "convnext": (t.ConvNextForImageClassification, t.ConvNextConfig(**STAGES), SEEN),
    "gemma2": (
        t.Gemma2ForCausalLM,
        t.Gemma2Config(**GROUPED, head_dim=16),
        WRITTEN,
    ),
    "gpt2": (t.GPT2LMHeadModel, t.GPT2Config(**GPT, n_embd=64), WRITTEN),
    "llama": (t.LlamaForCausalLM, t.LlamaConfig(**GROUPED), WRITTEN),
    "neox": (t.GPTNeoXForCausalLM, t.GPTNeoXConfig(**TEXT), WRITTEN),
    "phi3": (t.Phi3ForCausalLM, t.Phi3Config(**GROUPED), WRITTEN),
    "qwen2": (t.Qwen2ForCausalLM, t.Qwen2Config(**GROUPED), WRITTEN),
    "resnet": (
        t.ResNetForImageClassification,
        t.ResNetConfig(**STAGES, embedding_size=16),
        SEEN,
    ),
    "vit": (
        t.ViTForImageClassification,
        t.ViTConfig(**SIZES, image_size=64, patch_size=8),
        SEEN,
    ),
    "whisper": (
        t.WhisperForConditionalGeneration,
        t.WhisperConfig(**WHISPER),
        HEARD,
    ),
}


@pytest.mark.slow
@pytest.mark.cross_section("llama")
@pytest.mark.parametrize("name", MODELS)
def test_half_of_the_work_goes(name: str) -> None:
    torch.manual_seed(0)
    kind, config, inputs = MODELS[name]
    model = kind(config).eval()
    sparsify_fx.apply(
        model,
        "magnitude",
        sparsity=0.5,
        granularity="channel",
        budget="macs",
        example_inputs=inputs,
    )
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=2, steps_per_epoch=1)
    for _ in range(2):
        step(model, inputs, optimizer)
        scheduler.step()
    sparsify_fx.merge(model)
    expected = outputs(model, inputs)
    before = sum(parameter.numel() for parameter in model.parameters())
    sparsify_fx.shrink(model, inputs, optimizer)
    difference = (outputs(model, inputs) - expected).abs().max()
    assert difference <= 1e-5 * expected.abs().max()
    assert sum(parameter.numel() for parameter in model.parameters()) < 0.75 * before
    # Training goes on with what is left.
    step(model, inputs, optimizer)
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def step(
    model: nn.Module, inputs: dict[str, Any], optimizer: torch.optim.Optimizer
) -> None:
    model(**inputs)[0].float().pow(2).mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def outputs(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**inputs)[0]
    return found
