"""Criteria of first order in the loss, and GraSP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from sparsify_fx.criteria.base import CRITERIA, PruningContext, Scores
from sparsify_fx.criteria.objective import (
    Weights,
    mean_gradient,
    objective,
    scoring_batches,
)
from sparsify_fx.criteria.scoring_mode import check_mode, in_mode, unit_scales
from sparsify_fx.criteria.second_derivatives import hessian_product
from sparsify_fx.distributed.ranks import sum_over_ranks
from sparsify_fx.errors import MethodError
from sparsify_fx.registry import added_option

_NEEDS = ("model", "batches", "loss_fn")


@dataclass(frozen=True)
class Gradient:
    """Gradient magnitude `|∂L/∂θ|`, at pruned weights too: what RigL regrows by.

    L is the mean loss of the batches, over the ranks of a process group too; scores have the shapes of the weights and
    the unit of the gradient.

    Attributes:
        mode: "train" or "eval": the mode of the model while it is scored, whatever mode it is in; it decides what batch
            norm and dropout do. A model in training keeps the parts that were put into evaluation one by one.

    Raises MethodError for another mode.

    >>> CRITERIA["gradient"]
    Gradient(mode='train')

    Source: [Evci 2020].
    """

    mode: str = added_option("train")
    needs: ClassVar[tuple[str, ...]] = _NEEDS

    def __post_init__(self) -> None:
        check_mode("gradient", self.mode)

    def scores(self, context: PruningContext) -> Scores:
        """`|∂L/∂θ|`."""
        return {
            name: value.abs()
            for name, value in mean_gradient(
                context, "gradient", mode=self.mode
            ).items()
        }


@dataclass(frozen=True)
class Snip:
    """Connection sensitivity `|θ ⊙ ∂L/∂θ|`.

    L is the mean loss of the batches, over the ranks of a process group too; scores have the shapes of the weights and
    the unit of the loss.

    Attributes:
        mode: "train", as published, or "eval": the mode of the model while it is scored, whatever mode it is in; it
            decides what batch norm and dropout do, and with them the mask. A model in training keeps the parts that
            were put into evaluation one by one.
        unit_scales: score with ones in place of scales that are zero throughout. Residual nets often start the last
            norm of every branch at zero; every weight of such a branch then scores 0 and ties are broken by position.

    Raises MethodError for another mode.

    >>> CRITERIA["snip"]
    Snip(mode='train', unit_scales=False)

    Source: [Lee 2019], eq. 5, without its normalization.
    """

    mode: str = added_option("train")
    unit_scales: bool = added_option(False)
    needs: ClassVar[tuple[str, ...]] = _NEEDS

    def __post_init__(self) -> None:
        check_mode("snip", self.mode)

    def scores(self, context: PruningContext) -> Scores:
        """`|θ ⊙ ∂L/∂θ|`."""
        gradient = mean_gradient(context, "snip", mode=self.mode, unit=self.unit_scales)
        return {
            name: (context.weights[name] * value).abs()
            for name, value in gradient.items()
        }


# Registered as objects, not as classes: `CRITERIA["snip"]` scores as it is, as criteria that are functions do.
gradient = CRITERIA.add("gradient", Gradient())
snip = CRITERIA.add("snip", Snip())


@CRITERIA.register("grasp")
@dataclass(frozen=True)
class GraSP:
    """θ ⊙ (H g): weights whose removal would reduce the gradient norm most stay.

    The paper scores −θ ⊙ Hg and removes the highest. H g is the derivative of the gradient's product with g, no Hessian
    is formed; L is the mean loss of outputs / temperature over the batches, over the ranks of a process group too.
    Activations whose second derivative torch does not know are replaced by their formula meanwhile.

    Attributes:
        temperature: 200 in the published experiments, > 0.
        mode, unit_scales: as for `Snip`.

    Raises MethodError for options outside their range, and LayerError naming the module without a second derivative.

    >>> GraSP(temperature=1.0).mode
    'train'

    Source: [Wang 2020], eq. 8 and algorithm 1.
    """

    temperature: float = 200.0
    mode: str = added_option("train")
    unit_scales: bool = added_option(False)
    needs: ClassVar[tuple[str, ...]] = _NEEDS

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise MethodError(
                f"grasp: temperature={self.temperature!r} must be > 0; the paper uses 200"
            )
        check_mode("grasp", self.mode)

    def scores(self, context: PruningContext) -> Scores:
        """Mean over the batches of θ ⊙ (H g), g the mean gradient."""
        weights = dict(context.weights)
        # 1. g, the mean gradient over all batches of all ranks, before any product with it.
        direction = mean_gradient(
            context,
            "grasp",
            temperature=self.temperature,
            mode=self.mode,
            unit=self.unit_scales,
        )
        # 2. H g batch by batch: the Hessian of a mean loss is the mean of the Hessians.
        product, count = sum_over_ranks(
            "H g of grasp", lambda: self._products(context, weights, direction)
        )
        return {name: weights[name] * product[name] / count for name in weights}

    def _products(
        self, context: PruningContext, weights: Weights, direction: Weights
    ) -> tuple[Weights, int]:
        assert context.model is not None
        product = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        replaced = unit_scales(context.model, weights) if self.unit_scales else {}
        count = 0
        with in_mode(context.model, self.mode):
            for inputs, targets in scoring_batches(context):
                loss = objective(context, inputs, targets, self.temperature, replaced)
                part = hessian_product(
                    context, inputs, loss, weights, direction, "grasp"
                )
                product = {name: product[name] + part[name] for name in product}
                count += 1
        return product, count
