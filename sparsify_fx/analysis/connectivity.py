"""Linear mode connectivity: the error on the straight line between two networks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.analysis.batch_norm import reestimate
from sparsify_fx.errors import AnalysisError

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Line:
    """What was measured on the way from network A (alpha 0) to network B (alpha 1); errors in [0, 1]."""

    alphas: tuple[float, ...]
    loss: tuple[float, ...]
    error: tuple[float, ...]

    @property
    def error_barrier(self) -> float:
        """`max_α E(α) − (E(0) + E(1)) / 2`. Source: [Frankle 2020], section 2 (theirs allows 2 % for noise)."""
        return max(self.error) - (self.error[0] + self.error[-1]) / 2

    @property
    def loss_barrier(self) -> float:
        """The same for the loss."""
        return max(self.loss) - (self.loss[0] + self.loss[-1]) / 2


def interpolate(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """(1 − α) a + α b for floating tensors; others (counters) are a's. The ends are exact.

    >>> interpolate({"w": torch.tensor([0.0, 2.0])}, {"w": torch.tensor([4.0, 2.0])}, 0.25)
    {'w': tensor([1., 2.])}
    """
    if a.keys() != b.keys() or any(a[name].shape != b[name].shape for name in a):
        raise AnalysisError(
            "the two networks have other tensors; only networks of one model lie on a line"
        )
    # The ends are the networks themselves, with their own counters: a barrier is measured against them.
    if alpha in (0, 1):
        return dict(b if alpha else a)
    return {
        name: torch.lerp(t, b[name], alpha) if t.is_floating_point() else t
        for name, t in a.items()
    }


def line_between(
    a: nn.Module,
    b: nn.Module,
    points: int,
    training: Sequence[Batch],
    measure: Callable[[nn.Module], tuple[float, float]],
) -> Line:
    """Loss and error at `points` equidistant networks between two plain ones of the same model.

    Running statistics of batch norm are estimated again at every point, ends included, so that all are measured alike.
    With other masks the networks between hold the union of both.

    Args:
        points: at least 3, ends included.
        training: inputs for the statistics.
        measure: (loss, error) of a network in eval mode.
    """
    if points < 3:
        raise AnalysisError(
            f"points={points} leaves nothing between the two networks; take at least 3"
        )
    # One copy takes every point in turn: loading writes in place, and both networks stay as they are.
    model, first, last = copy.deepcopy(a), a.state_dict(), b.state_dict()
    # Computed one by one: a running sum of steps would miss the end, which has to be exactly 1.
    alphas = tuple(step / (points - 1) for step in range(points))
    found = []
    for alpha in alphas:
        model.load_state_dict(interpolate(first, last, alpha))
        found.append(measure(reestimate(model, training)))
    return Line(
        alphas, tuple(loss for loss, _ in found), tuple(error for _, error in found)
    )


@torch.no_grad()
def loss_and_error(
    model: nn.Module, batches: Sequence[Batch], loss_fn: Callable[[Any, Any], Tensor]
) -> tuple[float, float]:
    """Mean loss and the share of samples with another class than their label."""
    loss = wrong = count = 0.0
    for inputs, targets in batches:
        outputs = model(inputs)
        # The mean over samples: a short last batch counts for what it has.
        loss += float(loss_fn(outputs, targets)) * len(targets)
        wrong += int((outputs.argmax(1) != targets).sum())
        count += len(targets)
    return loss / count, wrong / count
