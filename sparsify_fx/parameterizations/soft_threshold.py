"""soft-threshold: weights below a learned threshold are exactly zero (STR)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from sparsify_fx.errors import MethodError
from sparsify_fx.moved import old_names
from sparsify_fx.numerics import ulp
from sparsify_fx.parameterizations.base import PARAMETERIZATIONS, Plain, Tensors

# How far a threshold falls under the smallest weight that is to come back, as a share of it.
_MARGIN = 2.0**-8
# Both are positive and rise with s, so that pulling a negative s to zero raises the threshold.
_GATES = {"sigmoid": torch.sigmoid, "exp": torch.exp}


@PARAMETERIZATIONS.register("soft-threshold")
@dataclass(frozen=True)
class SoftThreshold(Plain):
    """θ = sign(d)·relu(abs(d) − g(s)) with a trained s for each layer, or for each row of the weight.

    ∂θ/∂d = 1 where abs(d) > g(s), else 0; ∂θ/∂s = −g'(s)·sign(d) there. Weight decay on s (the penalty `thresholds`)
    pulls it to zero and so raises the threshold.

    split: d = θ + sign(θ)·g(s), within 2 ulp of abs(θ) + g(s); exact where g(s) = 0, as it is in float32 at the default
    start: sigmoid(−200) underflows. An entry that is exactly zero gets no gradient.

    Attributes:
        start: s at the beginning.
        gate: g, "sigmoid" or "exp".
        per: "layer" (s has no dimension), or "channel" (s has shape [rows, 1, ...]; the rows of a weight are its output
            channels, of transposed convolutions the input channels).

    Raises MethodError for another gate, another `per`, or a start that is not finite.

    >>> threshold = SoftThreshold(start=-1.0, gate="exp")
    >>> parts = threshold.split(torch.tensor([0.5, 0.0, -2.0]))
    >>> threshold.value({**parts, **threshold.shared(parts["dense"])})
    tensor([ 0.5000,  0.0000, -2.0000])

    Source: [Kusupati 2020], eq. 3 to 5 (STR); [Jacobs 2025], appendix C.2 (s = −200).
    """

    start: float = -200.0
    gate: str = "sigmoid"
    per: str = "layer"
    factors: ClassVar[tuple[str, ...]] = ("dense",)

    def __post_init__(self) -> None:
        if (
            self.gate not in _GATES
            or self.per not in ("layer", "channel")
            or not math.isfinite(self.start)
        ):
            raise MethodError(
                "soft-threshold: expected gate 'sigmoid' or 'exp', per 'layer' or 'channel', and a finite start; "
                f"got {self}"
            )

    def value(self, tensors: Mapping[str, Any]) -> Any:
        """θ = sign(d)·relu(abs(d) − g(s))."""
        dense = tensors["dense"]
        return torch.sign(dense) * torch.relu(
            torch.abs(dense) - _GATES[self.gate](tensors["s"])
        )

    def split(self, theta: Tensor, others: Tensors | None = None) -> dict[str, Tensor]:
        """d = θ + sign(θ)·g(s)."""
        s = (self.shared(theta) if others is None else others)["s"]
        return {
            "dense": theta
            + theta.sign() * _GATES[self.gate](s.to(theta.device)).to(theta.dtype)
        }

    def shared(self, theta: Tensor) -> dict[str, Tensor]:
        """s = start, of shape [] or [rows, 1, ...]."""
        shape = (
            # Axes of one entry, so that it broadcasts against weights of any number of axes.
            (theta.shape[0], *[1] * (theta.dim() - 1)) if self.per == "channel" else ()
        )
        return {"s": theta.new_full(shape, self.start)}

    def error_bound(self, theta: Tensor) -> Tensor:
        """2 ulp of abs(θ) + g(start); zero where g(start) is."""
        level = _GATES[self.gate](theta.new_tensor(self.start))
        return torch.where(
            level == 0, torch.zeros_like(theta), 2 * ulp(theta.abs() + level)
        )

    def nearness(self, tensors: Tensors) -> Tensor:
        """abs(d) − g(s), which is how far a weight is above its threshold."""
        dense = tensors["dense"]
        return torch.where(
            dense == 0, -math.inf, dense.abs() - _GATES[self.gate](tensors["s"])
        )

    def opened(self, tensors: Tensors, where: Tensor) -> dict[str, Tensor]:
        """The threshold falls for these weights alone, to just under the smallest abs(d) of them in the layer (or row).

        θ = sign(d)·(abs(d) − g'), so a weight comes back the larger the nearer it was to the threshold; d itself would
        be larger than weights that were above the threshold all along.
        """
        # 1. The smallest of those that come back decides how far the threshold would have to fall.
        dense, size = tensors["dense"], tensors["dense"].abs()
        sizes = torch.where(where, size, math.inf)
        least = (
            sizes.amin()
            if self.per == "layer"
            else sizes.flatten(1).amin(1).reshape(tensors["s"].shape)
        )
        # 2. `settle` brings thresholds back to their start: both levels count for the rounding.
        level, first = (
            _GATES[self.gate](s) for s in (tensors["s"], dense.new_tensor(self.start))
        )
        # More than what is lost when a threshold is added and taken away again.
        lowered = torch.maximum(
            size - least * (1 - _MARGIN), 8 * ulp(torch.maximum(level, first))
        )
        return {"dense": torch.where(where, dense.sign() * (lowered + level), dense)}

    def settle(self, tensors: Tensors) -> dict[str, Tensor]:
        """d = θ and thresholds at their start: no weight falls below one any more."""
        # What is zero by its threshold now becomes d = 0, and stays zero at every threshold.
        theta = self.value(tensors)
        shared = {"s": torch.full_like(tensors["s"], self.start)}
        return {**self.split(theta, shared), **shared}


if not TYPE_CHECKING:
    __getattr__ = old_names(__name__, {"Threshold": "SoftThreshold"})
