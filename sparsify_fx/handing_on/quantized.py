"""torchao: a quantized model in which zeros stay zeros."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.errors import ExportError
from sparsify_fx.handing_on.plain import missing, prunable


@dataclass(frozen=True)
class Quantized:
    """What quantizing has made of the weights.

    Attributes:
        layers: names of the weights that are quantized now, with the name of their tensor type.
        zeros: of their entries, zeros as before.
        rounded: further entries that were small and are zero now.
        total: entries of the quantized weights.
    """

    layers: dict[str, str]
    zeros: int
    rounded: int
    total: int

    def __str__(self) -> str:
        return (
            f"{len(self.layers)} layers quantized; {self.zeros:,} of {self.total:,} weights are zero as before, and "
            f"{self.rounded:,} more were rounded to zero"
        )


def quantize(model: nn.Module, config: Any) -> Quantized:
    """torchao's `quantize_(model, config)` on a merged sparse model, in place, with a look at every zero.

    torchao quantizes linear layers and keeps dense storage: n bits for each weight, zeros too. A file of it compresses
    well, since its zeros are one code, and no kernel gets faster by them.

    Raises ExportError for a rewritten model, one without zeros, and when a zero has become something else (the model is
    quantized then; a config with `preserve_zero` or a symmetric mapping keeps zeros) or nothing was quantized.
    """
    try:
        from torchao.quantization import quantize_
    except ImportError as error:
        raise missing("torchao", "torchao") from error
    before = {name: weight.clone() for name, weight in prunable(model).items()}
    quantize_(model, config)

    layers: dict[str, str] = {}
    zeros = rounded = total = 0
    for name, old in before.items():
        weight = model.get_parameter(name)
        # What torchao leaves alone is a plain parameter still.
        if type(weight.data) is Tensor:
            continue
        layers[name] = type(weight.data).__name__
        found = _dequantized(weight)
        lost = int((found[old == 0] != 0).sum())
        if lost:
            raise ExportError(
                f"{lost} zeros of {name} have become other numbers; use a symmetric mapping, or one that preserves zero"
            )
        zeros += int((old == 0).sum())
        rounded += int(((found == 0) & (old != 0)).sum())
        total += old.numel()
    if not layers:
        raise ExportError(
            f"{type(config).__name__} quantized no layer; torchao takes linear layers, with inputs that groups divide"
        )
    return Quantized(layers, zeros, rounded, total)


@torch.no_grad()
def _dequantized(weight: Any) -> Tensor:
    found: Tensor = weight.dequantize()
    return found
