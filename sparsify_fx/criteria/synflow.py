"""SynFlow: iterated synaptic flow, without data."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from sparsify_fx.criteria.base import CRITERIA, PruningContext, Scores
from sparsify_fx.criteria.objective import scoring_batches
from sparsify_fx.errors import RecipeError
from sparsify_fx.masks import masks_of_counts


@CRITERIA.register("synflow")
@dataclass(frozen=True)
class Synflow:
    """Synaptic flow `|θ| ⊙ ∂R/∂|θ|`: R sums the outputs of the net with absolute weights on an input of ones.

    Pruned in rounds: after round k of n, round(N · ρ^(k/n)) weights are left, ρ the final density, so no layer
    collapses while another still has weights to give. Batch norm is in evaluation mode with absolute parameters and
    statistics, so it stays linear. Only the shape of the inputs in `batches` is read. Scores that overflow or vanish in
    float32 are computed in float64.

    Attributes:
        rounds: n >= 1; 100 in the paper.

    Source: Tanaka et al. 2020, algorithm 1 and appendix.
    """

    rounds: int = 100
    needs: ClassVar[tuple[str, ...]] = ("model", "batches")

    def __post_init__(self) -> None:
        if isinstance(self.rounds, bool) or not isinstance(self.rounds, int) or self.rounds < 1:
            raise RecipeError(f"synflow: rounds={self.rounds!r} must be a whole number >= 1; the paper uses 100")

    def scores(self, context: PruningContext) -> Scores:
        """The last round's scores; −inf where an earlier round pruned."""
        inputs, _ = next(iter(scoring_batches(context)))
        ones = torch.ones_like(inputs[:1], dtype=torch.float32)
        alive = context.alive or {name: torch.ones_like(w, dtype=torch.uint8) for name, w in context.weights.items()}
        masks = {name: mask.clone() for name, mask in alive.items()}
        before = sum(int(mask.sum(dtype=torch.int64)) for mask in masks.values())
        flow = _Flow(context, ones)
        for k in range(1, self.rounds + 1):
            scores = flow.scores(masks)
            scores = {name: score.masked_fill(masks[name] == 0, -torch.inf) for name, score in scores.items()}
            if k == self.rounds:
                return scores
            kept = round(before * (context.kept / before) ** (k / self.rounds))
            capacity = {name: int(mask.sum(dtype=torch.int64)) for name, mask in masks.items()}
            masks = masks_of_counts(scores, context.allocation.counts(scores, capacity, kept))
        raise AssertionError("unreachable: rounds >= 1")


class _Flow:
    """The absolute, linear copy of the model; its precision grows when float32 does not do."""

    def __init__(self, context: PruningContext, ones: Tensor) -> None:
        assert context.model is not None
        self.ones, self.weights = ones, {name: weight.abs() for name, weight in context.weights.items()}
        self.model: nn.Module = copy.deepcopy(context.model).eval()
        with torch.no_grad():
            for tensor in (*self.model.parameters(), *self.model.buffers()):
                if tensor.is_floating_point():
                    tensor.abs_()
        self.dtype = torch.float32
        self._cast()

    def _cast(self) -> None:
        self.model.to(self.dtype)
        self.ones = self.ones.to(self.dtype)
        self.weights = {name: weight.to(self.dtype) for name, weight in self.weights.items()}

    def scores(self, masks: dict[str, Tensor]) -> Scores:
        """|θ| ⊙ ∂R/∂|θ| under the masks."""
        effective = {name: weight * masks[name] for name, weight in self.weights.items()}
        gradient = grad(self._outputs)(effective)
        scores = {name: effective[name] * gradient[name] for name in effective}
        if all(torch.isfinite(score).all() and score.any() for score in scores.values()):
            return scores
        if self.dtype == torch.float32 and self.ones.device.type != "mps":
            self.dtype = torch.float64
            self._cast()
            return self.scores(masks)
        if not all(torch.isfinite(score).all() for score in scores.values()):
            raise RecipeError("synflow: the flow overflows even in float64; use another criterion for this model")
        return scores

    def _outputs(self, weights: dict[str, Tensor]) -> Tensor:
        fixed = {name: p.detach() for name, p in self.model.named_parameters() if name not in weights}
        outputs = functional_call(self.model, {**fixed, **dict(self.model.named_buffers()), **weights}, (self.ones,))
        if not isinstance(outputs, Tensor):
            raise RecipeError(
                f"synflow needs a model that returns one tensor, this one returns {type(outputs).__name__}"
            )
        return outputs.sum()
