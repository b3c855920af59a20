"""Distillation: a dense teacher's outputs as further targets of a sparse model."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsify_fx.errors import MethodError


class Distillation:
    """Mixes a loss with the distance to the outputs of a teacher, usually the model as it was before it was pruned.

    L = (1 − λ) · loss + λ · T² · KL(softmax(t / T) ‖ softmax(s / T)), t the teacher's logits, s the model's, both
    [N, classes] or with further axes after the classes; the mean over N (and those axes), in float32.

    The teacher is copied, so that pruning the model cannot change it; the copy is in evaluation mode and frozen.

    Args:
        teacher: takes the same inputs as the model and gives logits of the same shape.
        weight: λ in [0, 1].
        temperature: T > 0; the softer, the more the order of the wrong classes counts.

    Raises MethodError for a λ or T outside of these, and for outputs of another shape than the model's.

    >>> teacher = nn.Linear(4, 3)
    >>> distill = Distillation(teacher, weight=1.0)
    >>> inputs = torch.ones(2, 4)
    >>> distill(torch.tensor(5.0), teacher(inputs), inputs).detach()
    tensor(0.)

    Source: [Hinton 2015], section 2.
    """

    def __init__(
        self, teacher: nn.Module, weight: float = 0.5, temperature: float = 2.0
    ) -> None:
        if not 0 <= weight <= 1:
            raise MethodError(
                f"distillation: weight={weight!r} must be in [0, 1], the share of the teacher in the loss"
            )
        if not 0 < temperature < math.inf:
            raise MethodError(
                f"distillation: temperature={temperature!r} must be a positive number, for instance 2"
            )
        self.weight, self.temperature = weight, temperature
        self.teacher = copy.deepcopy(teacher).eval().requires_grad_(False)

    def __call__(self, loss: Tensor, outputs: Any, inputs: Any) -> Tensor:
        """The mixed loss of a batch: `loss` is that of its labels, `outputs` what the model makes of `inputs`."""
        with torch.no_grad():
            wanted = _logits(self.teacher(inputs))
        given = _logits(outputs)
        if wanted.shape != given.shape:
            raise MethodError(
                f"distillation: the teacher gives {tuple(wanted.shape)}, the model {tuple(given.shape)}; expected "
                "logits of the same shape"
            )
        # Classes last, so that the mean is over everything else, pixels and words too.
        soft, target = (
            F.log_softmax(logits.float().movedim(1, -1) / self.temperature, -1)
            for logits in (given, wanted)
        )
        distance = F.kl_div(
            soft.flatten(0, -2),
            target.flatten(0, -2),
            reduction="batchmean",
            log_target=True,
        )
        return (1 - self.weight) * loss + self.weight * self.temperature**2 * distance


def _logits(outputs: Any) -> Tensor:
    """The tensor itself, or the `logits` of what Hugging Face's models return."""
    logits = getattr(outputs, "logits", outputs)
    if not isinstance(logits, Tensor) or logits.dim() < 2:
        raise MethodError(
            f"distillation: expected logits [N, classes], got {type(outputs).__name__}; give a teacher and a model "
            "that return a tensor, or an object with .logits"
        )
    return logits
