"""dense: the weight itself is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from sparsify_fx.parameterizations.base import PARAMETERIZATIONS, Plain, Tensors


@PARAMETERIZATIONS.register("dense")
@dataclass(frozen=True)
class Dense(Plain):
    """θ itself is the trainable tensor."""

    factors: ClassVar[tuple[str, ...]] = ("dense",)

    def value(self, tensors: Mapping[str, Any]) -> Any:
        """θ = dense."""
        return tensors["dense"]

    def split(self, theta: Tensor, others: Tensors | None = None) -> dict[str, Tensor]:
        """dense = θ."""
        return {"dense": theta.clone()}
