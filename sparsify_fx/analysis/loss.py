"""The mean loss of a model over real batches, as a function of its trainable tensors, for torch.func."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from sparsify_fx.criteria.objective import plain_kernels
from sparsify_fx.errors import AnalysisError
from sparsify_fx.programs.owners import programs

Weights = dict[str, Tensor]
Loss = Callable[[Weights], Tensor]


@dataclass(frozen=True)
class MeanLoss:
    """L(p) = Σ_b share_b · L_b(p), the mean over all samples of all batches.

    Attributes:
        point: the trainable tensors as they are, by name.
        terms: (share of the samples, loss of one batch).
        masks: by name of a tensor, non-zero where an entry counts; a tensor without a mask counts in full.
    """

    point: Weights
    terms: tuple[tuple[float, Loss], ...]
    masks: dict[str, Tensor]


def mean_loss(
    model: nn.Module,
    batches: Sequence[tuple[Tensor, Tensor]],
    loss_fn: Callable[[Any, Any], Tensor],
    masks: dict[str, Tensor] | None = None,
) -> MeanLoss:
    """The loss of `model` over its trainable tensors; the model and its buffers stay as they are.

    A model with weight programs is taken in the space of its factors (m, w): the masks are its own, for each factor. A
    plain (merged) one is taken in the space of the weights θ, with the given masks.

    Args:
        model: in the mode in which the loss is wanted; eval makes it independent of how samples are batched.
        batches: inputs [n, ...] and targets [n, ...]; n may differ.
        loss_fn: the mean loss of (outputs, targets).
        masks: of a plain model, by name of the weight.

    Raises AnalysisError without batches or trainable tensors.
    """
    # 1. The point: tensors that torch.func may differentiate by, without the graph that they hang in.
    point = {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    samples = sum(len(targets) for _, targets in batches)
    if not samples or not point:
        raise AnalysisError(
            f"{type(model).__name__}: a loss needs at least one sample and one trainable tensor"
        )
    # Frozen parameters are constants of the function, not coordinates of it.
    others = {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if name not in point
    }

    # 2. A function for each batch, weighted by its samples: a last batch that is short counts for less.
    def term(inputs: Tensor, targets: Tensor) -> Loss:
        def loss(weights: Weights) -> Tensor:
            # Copies for each call: batch norm in training mode writes its running statistics in place,
            # which torch.func forbids for captured tensors, and the model shall stay as it is.
            buffers = {
                name: buffer.detach().clone() for name, buffer in model.named_buffers()
            }
            # The fused kernels of attention and recurrent layers have no second derivative.
            with plain_kernels(model):
                return loss_fn(
                    functional_call(model, {**others, **buffers, **weights}, (inputs,)),
                    targets,
                )

        return loss

    terms = tuple(
        (len(targets) / samples, term(inputs, targets)) for inputs, targets in batches
    )
    return MeanLoss(point, terms, {**factor_masks(model), **(masks or {})})


def factor_masks(model: nn.Module) -> dict[str, Tensor]:
    """The mask of every factor of every weight program, by the factor's name in the state dict."""
    # A program knows its factors as tensors; their names in the model are found by identity.
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, Tensor] = {}
    for program in programs(model).values():
        mask = program.factor_mask()
        if mask is not None:
            found |= {
                names[id(factor)]: mask for factor in program.factor_tensors().values()
            }
    return found
