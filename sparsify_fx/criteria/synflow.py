"""SynFlow: iterated synaptic flow, without data."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from sparsify_fx.allocations import Chooser, Global, Pattern
from sparsify_fx.criteria.base import CRITERIA, Criterion, PruningContext, Scores
from sparsify_fx.criteria.objective import scoring_batches
from sparsify_fx.criteria.scoring_mode import unit_scales
from sparsify_fx.errors import MethodError
from sparsify_fx.masks import masks_of_counts
from sparsify_fx.registry import added_option


@CRITERIA.register("synflow")
@dataclass(frozen=True)
class Synflow:
    """Synaptic flow `|θ| ⊙ ∂R/∂|θ|`: R sums the outputs of the net with absolute weights on an input of ones.

    Pruned in rounds: after round k of n, round(N · ρ^(k/n)) weights are left, ρ the final density. In a net without
    biases the scores of every layer add up to R, so no layer that all paths cross is emptied while another still has
    weights to give. Biases and the shifts of norms take part, in absolute value, as in the published code: they feed
    the layers after them with a flow that no weight before them carries, so scores are no longer conserved and a layer
    can lose all its weights; `min_per_layer` keeps some. With an allocation other than "global", each layer falls
    exponentially to its own count; an "n:m" pattern takes one round. The model is in evaluation mode, batch norm has
    absolute parameters and no means, so it passes the flow on. Only the shape of the inputs in `batches` is read.
    Scores that overflow or vanish in float32 are computed in float64.

    Attributes:
        rounds: n >= 1; 100 in the paper.
        unit_scales: score with ones in place of scales that are zero throughout, as for `Snip`.

    Raises MethodError for rounds below 1, inputs that are not floating, a model that does not return one tensor, and a
    flow that overflows.

    >>> Synflow(rounds=10).rounds
    10

    Source: [Tanaka 2020], algorithm 1 and appendix.
    """

    rounds: int = 100
    unit_scales: bool = added_option(False)
    needs: ClassVar[tuple[str, ...]] = ("model", "batches")

    def __post_init__(self) -> None:
        if (
            isinstance(self.rounds, bool)
            or not isinstance(self.rounds, int)
            or self.rounds < 1
        ):
            raise MethodError(
                f"synflow: rounds={self.rounds!r} must be a whole number >= 1; the paper uses 100"
            )

    def brief(self) -> tuple[Criterion, int]:
        """A single round: enough to see whether the model can be scored at all."""
        return replace(self, rounds=1), 1

    def scores(self, context: PruningContext) -> Scores:
        """The last round's scores; −inf where an earlier round pruned."""
        # Only their shape and device count; the values become ones.
        inputs, _ = next(iter(scoring_batches(context)))
        if not inputs.is_floating_point():
            raise MethodError(
                f"synflow feeds ones into the model; inputs of dtype {inputs.dtype} cannot be replaced"
            )
        alive = context.alive or {
            name: torch.ones_like(w, dtype=torch.uint8)
            for name, w in context.weights.items()
        }
        masks = {name: mask.clone() for name, mask in alive.items()}
        flow = _Flow(
            context, torch.ones_like(inputs[:1], dtype=torch.float32), self.unit_scales
        )
        # 1. Rounds go down exponentially from what is alive now, be that all weights or those of the last cycle.
        start = _counts(masks)
        # A pattern fixes how many weights of a group stay: there is no way to it in small steps.
        allocation = context.allocation
        rounds = 1 if isinstance(allocation, Pattern) else self.rounds
        groups = getattr(allocation, "whole_groups", False)
        # 2. Each round scores the net that the rounds before it left: that is what keeps layers from being emptied.
        for k in range(1, rounds):
            scores = _living(flow.scores(masks), masks)
            if groups and isinstance(allocation, Chooser):
                # Whole groups: as many weights as this round leaves, divided as the groups are.
                left = _left(context, sum(start.values()), k / rounds)
                masks = allocation.choose(scores, _counts(masks), left)
                continue
            masks = masks_of_counts(
                scores,
                _round_counts(context, scores, start, _counts(masks), k / rounds),
            )
        # 3. After the last round the caller's allocation prunes.
        return _living(flow.scores(masks), masks)


def _counts(masks: dict[str, Tensor]) -> dict[str, int]:
    return {name: int(mask.sum(dtype=torch.int64)) for name, mask in masks.items()}


def _living(scores: Scores, masks: dict[str, Tensor]) -> Scores:
    return {
        name: score.masked_fill(masks[name] == 0, -torch.inf)
        for name, score in scores.items()
    }


def _left(context: PruningContext, before: int, share: float) -> int:
    """Weights of the whole model after the share k/n of the rounds."""
    left: float = before * (context.kept / before) ** share
    return round(left)


def _round_counts(
    context: PruningContext,
    scores: Scores,
    start: dict[str, int],
    now: dict[str, int],
    share: float,
) -> dict[str, int]:
    """Weights of each layer after the share k/n of the rounds: N · ρ^(k/n), over the model or layer by layer."""
    if isinstance(context.allocation, Global):
        left = _left(context, sum(start.values()), share)
        return context.allocation.counts(scores, now, left)
    final = context.allocation.counts(scores, start, context.kept)
    return {
        # Geometric between start and end, as over the model: each layer falls to its own count.
        name: max(final[name], round(start[name] ** (1 - share) * final[name] ** share))
        for name in start
    }


class _Flow:
    """The absolute copy of the model; its precision grows when float32 does not do."""

    def __init__(self, context: PruningContext, ones: Tensor, unit: bool) -> None:
        assert context.model is not None
        self.ones, self.weights = (
            ones,
            {name: weight.abs() for name, weight in context.weights.items()},
        )
        # A copy, for its parameters and buffers are overwritten.
        self.model: nn.Module = copy.deepcopy(context.model).eval()
        for name in unit_scales(self.model, context.weights) if unit else ():
            nn.init.ones_(self.model.get_parameter(name))
        _make_absolute(self.model)
        # Half precision overflows in nets of a few layers.
        self._cast(torch.float32)

    def _cast(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.model.to(dtype)
        self.ones = self.ones.to(dtype)
        self.weights = {name: weight.to(dtype) for name, weight in self.weights.items()}

    def scores(self, masks: dict[str, Tensor]) -> Scores:
        """|θ| ⊙ ∂R/∂|θ| under the masks."""
        effective = {
            name: weight * masks[name] for name, weight in self.weights.items()
        }
        gradient = grad(self._outputs)(effective)
        scores = {name: effective[name] * gradient[name] for name in effective}
        # The flow multiplies sums of absolute weights over all layers: in deep or wide nets it leaves float32,
        # upwards to infinity or downwards to scores that are all zero.
        finite = all(torch.isfinite(score).all() for score in scores.values())
        if finite and all(score.any() for score in scores.values()):
            return scores
        # MPS has no float64. The wider copy stays for the rounds that follow.
        if self.dtype == torch.float32 and self.ones.device.type != "mps":
            self._cast(torch.float64)
            return self.scores(masks)
        if not finite:
            raise MethodError(
                "synflow: the flow overflows even in float64; use another criterion for this model"
            )
        return scores

    def _outputs(self, weights: dict[str, Tensor]) -> Tensor:
        fixed = {
            name: p.detach()
            for name, p in self.model.named_parameters()
            if name not in weights
        }
        outputs = functional_call(
            self.model,
            {**fixed, **dict(self.model.named_buffers()), **weights},
            (self.ones,),
        )
        if not isinstance(outputs, Tensor):
            raise MethodError(
                f"synflow needs a model that returns one tensor, this one returns {type(outputs).__name__}"
            )
        return outputs.sum()


@torch.no_grad()
def _make_absolute(model: nn.Module) -> None:
    """Absolute parameters and buffers; running means, which would be subtracted from the flow, become zero."""
    # Biases and shifts too, as in the published code; the class says what that costs.
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.abs_()
    for module in model.modules():
        if (
            isinstance(module, nn.modules.batchnorm._NormBase)
            and module.running_mean is not None
        ):
            module.running_mean.zero_()
