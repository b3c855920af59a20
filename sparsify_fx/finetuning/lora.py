"""LoRA on a sparse model: the update is masked, in training and when it is merged, so that zeros stay zero."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from sparsify_fx.errors import LayerError, MethodError
from sparsify_fx.finetuning.mergeable import check_mergeable
from sparsify_fx.programs.owners import programs


@dataclass(frozen=True)
class LoraReport:
    """What merging a masked update has cost.

    Attributes:
        kept: by layer, ‖ΔW ⊙ M‖² / ‖ΔW‖², the share of the update's energy that is where the weight lives; 1.0 for an
            update of zeros. After `mask_lora` the rest had no effect in training either, and nothing is lost.
        zeros: weights that are zero in the merged layers.
        total: weights of these layers.
    """

    kept: dict[str, float]
    zeros: int
    total: int

    def __str__(self) -> str:
        least = min(self.kept, key=lambda name: self.kept[name])
        return (
            f"{self.zeros:,} of {self.total:,} weights in {len(self.kept)} layers are zero as before; "
            f"{100 * self.kept[least]:.1f} % of the update is kept in {least}, more in all others"
        )


def mask_lora(model: nn.Module) -> nn.Module:
    """Let every LoRA layer of a peft model update living weights alone; in place, the model comes back.

    y = x (W + s · BA ⊙ M)ᵀ with M = (W ≠ 0): what is trained is what `merge_lora` merges. A forward costs one more
    product of the layer's size.

    Args:
        model: what `peft.get_peft_model` gives for a merged sparse model.

    Raises, with nothing changed: LayerError for a model without LoRA layers or without zeros, or one that is still
    rewritten; MethodError for DoRA and other variants, for dropout on the update, and for adapted layers other than
    linear ones and convolutions, or such whose outputs are not linear in their weight.

    >>> from peft import LoraConfig, get_peft_model
    >>> net = nn.Sequential(nn.Linear(4, 4, bias=False))
    >>> _ = net[0].weight.data.triu_()
    >>> config = LoraConfig(r=2, target_modules=["0"], init_lora_weights=False)
    >>> tuned = mask_lora(get_peft_model(net, config))
    >>> plain, report = merge_lora(tuned)
    >>> bool((plain[0].weight.tril(-1) == 0).all()), report.zeros
    (True, 6)
    """
    found = dict(_adapted(model))
    for name, layer in found.items():
        check_mergeable(name, layer.get_base_layer())
        _check_plain(name, layer)
    for layer in found.values():
        if _take_outside not in layer._forward_hooks.values():
            layer.register_forward_hook(_take_outside, with_kwargs=True)
    return model


def merge_lora(model: Any) -> tuple[nn.Module, LoraReport]:
    """peft's `merge_and_unload`, with every weight that was zero put back to zero; the plain model, and what it cost.

    W ← (W + ΔW) ⊙ M with M = (W ≠ 0). Without `mask_lora` in training this drops what the adapter has learned at the
    zeros, mostly as large a share as there are zeros: train on with "keep-zeros" then.

    Raises, with nothing changed: LayerError for a model without LoRA layers or without zeros, or one that is still
    rewritten; MethodError for adapted layers whose outputs are not linear in their weight.
    """
    found = dict(_adapted(model))
    for name, layer in found.items():
        check_mergeable(name, layer.get_base_layer())
    before = {
        name: layer.get_base_layer().weight.detach().clone()
        for name, layer in found.items()
    }
    bases = {name: layer.get_base_layer() for name, layer in found.items()}
    merged: nn.Module = model.merge_and_unload()
    kept, zeros, total = {}, 0, 0
    with torch.no_grad():
        for name, base in bases.items():
            update = base.weight - before[name]
            outside = before[name] == 0
            whole = float(update.double().square().sum())
            lost = float(update[outside].double().square().sum())
            kept[name] = 1 - lost / whole if whole else 1.0
            base.weight.masked_fill_(outside, 0.0)
            zeros, total = zeros + int(outside.sum()), total + outside.numel()
    return merged, LoraReport(kept, zeros, total)


def _adapted(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The LoRA layers of a peft model by the names of their base layers."""
    try:
        from peft.tuners.lora import LoraLayer
    except ImportError as error:
        raise LayerError("LoRA layers are peft's; pip install peft") from error
    # Into a computed weight an adapter cannot be merged, and it has no zeros of its own yet.
    if programs(model):
        raise LayerError(
            "the model under the adapter is still rewritten; sparsify_fx.merge(model) it first, so that its zeros are "
            "plain weights"
        )
    layers: dict[str, Any] = {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }
    if not layers:
        raise LayerError(
            f"{type(model).__name__} has no LoRA layer; give what peft.get_peft_model(model, LoraConfig(...)) returns"
        )
    weights: dict[str, Any] = {
        name: layer.get_base_layer().weight for name, layer in layers.items()
    }
    if all(int(w.count_nonzero()) == w.numel() for w in weights.values()):
        raise LayerError(
            "none of the adapted layers has a zero, so there is nothing to keep; use peft's merge_and_unload"
        )
    yield from layers.items()


def _check_plain(name: str, layer: Any) -> None:
    base = layer.get_base_layer()
    if _product(base) is None:
        raise MethodError(
            f"{name} is a {type(base).__name__}; updates of linear layers and convolutions can be masked in training. "
            "Leave it out of target_modules, or merge_lora without mask_lora"
        )
    if getattr(layer, "lora_variant", None):
        raise MethodError(
            f"{name} is adapted by a variant of LoRA (DoRA or another), whose update is no product of two matrices; "
            "use plain LoRA, or merge_lora without mask_lora"
        )
    if any(getattr(drop, "p", 0) for drop in layer.lora_dropout.values()):
        raise MethodError(
            f"{name} has lora_dropout, under which the update is another one in every step; set lora_dropout=0"
        )


def _product(base: nn.Module) -> Any:
    """A function of x and a weight: what this layer makes of x with it, without a bias; None for other kinds."""
    if isinstance(base, nn.Linear):
        return lambda x, weight: F.linear(x, weight)
    if isinstance(base, _ConvNd) and hasattr(base, "_conv_forward"):
        # By its own forward: a class derived from it may pad in another way before (timm's Conv2dSame).
        return lambda x, weight: functional_call(base, _without_bias(base, weight), x)
    # The linear layer of GPT-2 and its like, whose weight is [inputs, outputs].
    if type(base).__name__ == "Conv1D":
        return lambda x, weight: x @ weight
    return None


def _without_bias(base: nn.Module, weight: Tensor) -> dict[str, Tensor]:
    bias = getattr(base, "bias", None)
    return {"weight": weight} | (
        {} if bias is None else {"bias": torch.zeros_like(bias)}
    )


def _take_outside(layer: Any, args: Any, options: Any, output: Tensor) -> Tensor:
    """A forward hook: without what the update adds where the weight is zero."""
    if options.get("adapter_names") is not None:
        raise MethodError(
            "mask_lora masks the active adapters; it cannot mix them within a batch (adapter_names=)"
        )
    # Merged, the update is in the weight; then `merge_lora` has masked it.
    if layer.merged or layer.disable_adapters:
        return output
    base = layer.get_base_layer()
    deltas = [
        layer.get_delta_weight(name)
        for name in layer.active_adapters
        if name in layer.lora_A
    ]
    if not deltas:
        return output
    outside = torch.stack(deltas).sum(0).masked_fill(base.weight != 0, 0.0)
    added: Tensor = _product(base)(args[0].to(outside.dtype), outside)
    return output - added.to(output.dtype)
