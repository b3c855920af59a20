"""top-scores: fixed weights, of which those of the largest trained scores are open (edge-popup, supermasks)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparsify_fx.errors import MethodError
from sparsify_fx.parameterizations.base import (
    PARAMETERIZATIONS,
    Moment,
    Plain,
    Tensors,
)
from sparsify_fx.randomness import seed_of


@PARAMETERIZATIONS.register("top-scores")
@dataclass(frozen=True)
class TopScores(Plain):
    """θ = d where abs(s) is one of the k largest of its layer, else 0; s is trained and d is not.

    k = ⌊share · n⌋ + 1 of the n weights. The gradient goes straight through: ∂θ/∂s = d · sign(s) everywhere, ∂θ/∂d = 0.
    The state `share` is 1 until a Scheduler sets it to `density` before each step, and 1 again once the masks are
    final, when settled scores are equal. `apply` takes the density from the sparsity.

    split: d = θ, scores uniform in ±1/√(inputs), drawn from the shape and the first entry of θ: exact at share 1, and
    otherwise where gates are open.

    Attributes:
        density: the share of open weights, in (0, 1].

    Raises MethodError for another density.

    >>> gate = TopScores(density=0.5)
    >>> scores = {"dense": torch.tensor([1.0, 2.0, 3.0]), "score": torch.tensor([0.1, -0.9, 0.5])}
    >>> gate.value({**scores, "share": torch.tensor(0.5)})
    tensor([0., 2., 3.])

    Source: [Ramanujan 2020], section 3 (edge-popup).
    """

    density: float = 1.0
    factors: ClassVar[tuple[str, ...]] = ("dense", "score")
    gates: ClassVar[tuple[str, ...]] = ("score",)
    # Decay would shrink weights that no gradient moves, and scores that only their order counts of.
    without_decay: ClassVar[tuple[str, ...]] = ("factors", "shared")
    # The scores of a layer compete: vectors of living entries would be another layer.
    together: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise MethodError(f"top-scores: density={self.density!r} must be in (0, 1]")

    def with_density(self, density: float) -> TopScores:
        """The same with this share of open weights."""
        return replace(self, density=density)

    def value(self, tensors: Mapping[str, Any]) -> Any:
        """θ = d·[abs(s) >= the k-th largest]."""
        dense, size = tensors["dense"], torch.abs(tensors["score"])
        # s − s is exactly 0 and carries the gradient; so do d − d, a gradient of 0.
        through = size - size.detach()
        gate = (size >= self._least(size, tensors["share"])).to(dense.dtype) + through
        return (dense.detach() + 0 * dense) * gate

    def _least(self, size: Any, share: Any) -> Any:
        """The k-th largest (shape [1])."""
        ranked = torch.sort(size.detach().flatten(), descending=True)[0]
        # At share 1 the place is one behind the last.
        ranked = torch.cat([ranked, ranked[-1:]])
        place = torch.floor(share * size.numel()).to(torch.int64)
        return ranked.gather(0, place.reshape(1))

    def split(self, theta: Tensor, others: Tensors | None = None) -> dict[str, Tensor]:
        """d = θ; the scores stay where there are some."""
        known = None if others is None else others.get("score")
        score = known if known is not None and known.shape == theta.shape else None
        if score is None:
            inputs = theta[0].numel() if theta.dim() > 1 else theta.numel()
            score = drawn_scores(theta) / math.sqrt(max(1, inputs))
        return {"dense": theta.clone(), "score": score}

    def state(self, theta: Tensor) -> dict[str, Tensor]:
        """share = 1, where every gate is open."""
        return {"share": theta.new_ones(())}

    def refresh(self, state: Tensors, moment: Moment) -> None:
        """share = density until the masks are final."""
        state["share"].fill_(self.density if moment.progress < 1 else 1.0)

    def settle(self, tensors: Tensors) -> dict[str, Tensor]:
        """d = 0 where a gate is closed; every score 1."""
        theta = self.value(tensors).detach()
        return {"dense": theta, "score": torch.ones_like(theta)}

    def nearness(self, tensors: Tensors) -> Tensor:
        """The size of the score; −inf where there is no weight to bring back."""
        size = tensors["score"].abs()
        return torch.where(tensors["dense"] == 0, -math.inf, size)

    def opened(self, tensors: Tensors, where: Tensor) -> dict[str, Tensor]:
        """The largest score there."""
        score = tensors["score"]
        return {"score": torch.where(where, score.abs().amax() + 1, score)}


def drawn_scores(theta: Tensor) -> Tensor:
    """Uniform in [−1, 1), by the shape and the first entry: other nets have others, resumed trainings the same."""
    first = theta.detach().flatten()[:1].tolist() if not theta.is_meta else []
    text = f"scores {tuple(theta.shape)} {first}"
    generator = torch.Generator().manual_seed(seed_of(text, signed=True))
    uniform = torch.rand(
        theta.shape, generator=generator, dtype=torch.float32, device="cpu"
    )
    return (2 * uniform - 1).to(theta.device, theta.dtype)
