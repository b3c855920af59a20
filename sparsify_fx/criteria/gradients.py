"""Criteria of first order in the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.func import grad, vjp

from sparsify_fx.criteria.base import CRITERIA, PruningContext, Scores, criterion
from sparsify_fx.criteria.objective import mean_gradient, objective, scoring_batches
from sparsify_fx.errors import RecipeError


@criterion("gradient", needs=("model", "batches", "loss_fn"))
def gradient(context: PruningContext) -> Scores:
    """Gradient magnitude `|∂L/∂θ|`, at pruned weights too: what RigL regrows by. Source: Evci et al. 2020."""
    return {name: value.abs() for name, value in mean_gradient(context).items()}


@criterion("snip", needs=("model", "batches", "loss_fn"))
def snip(context: PruningContext) -> Scores:
    """Connection sensitivity `|θ ⊙ ∂L/∂θ|`. Source: Lee et al. 2019, eq. 5, without its normalisation."""
    return {name: (context.weights[name] * value).abs() for name, value in mean_gradient(context).items()}


@CRITERIA.register("grasp")
@dataclass(frozen=True)
class GraSP:
    """θ ⊙ (H g): weights whose removal would reduce the gradient norm most stay.

    The paper scores −θ ⊙ Hg and removes the highest. H g is a vector-Jacobian product of the gradient (H is symmetric;
    torch's forward mode knows fewer operators and warns), no Hessian is formed; L is the loss of outputs / temperature.

    Attributes:
        temperature: 200 in the published experiments, > 0.

    Source: Wang et al. 2020, eq. 8 and algorithm 1.
    """

    temperature: float = 200.0
    needs: ClassVar[tuple[str, ...]] = ("model", "batches", "loss_fn")

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise RecipeError(f"grasp: temperature={self.temperature!r} must be > 0; the paper uses 200")

    def scores(self, context: PruningContext) -> Scores:
        """Mean over the batches of θ ⊙ (H g), g the mean gradient."""
        weights, direction = dict(context.weights), mean_gradient(context, self.temperature)
        product = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        count = 0
        for inputs, targets in scoring_batches(context):
            loss = objective(context, inputs, targets, self.temperature)
            (part,) = vjp(grad(loss), weights)[1](direction)
            product = {name: product[name] + part[name] for name in product}
            count += 1
        return {name: weights[name] * product[name] / count for name in weights}
