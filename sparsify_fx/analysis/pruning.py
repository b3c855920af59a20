"""Accuracy after pruning a trained network to many levels without fine-tuning, and the sparsity that it bears."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsify_fx.errors import AnalysisError
from sparsify_fx.masks import kept_count, top_masks

LEVELS = (
    0.0,
    0.5,
    0.6,
    0.7,
    0.75,
    0.8,
    0.85,
    0.88,
    0.9,
    0.92,
    0.94,
    0.95,
    0.96,
    0.97,
    0.98,
    0.985,
    0.99,
)
HIGH = 0.9
"""From here on a level counts as high sparsity; the paper does not say from where (our choice)."""


@dataclass(frozen=True)
class PruneCurve:
    """Accuracies in [0, 1] by sparsity, ascending; the first is that of the network as it is."""

    sparsities: tuple[float, ...]
    accuracies: tuple[float, ...]

    def before_drop(self, allowed: float) -> float:
        """The last sparsity before the accuracy first falls by more than `allowed` below that of the network as it is.

        >>> PruneCurve((0.0, 0.8, 0.9), (0.95, 0.945, 0.90)).before_drop(0.01)
        0.8

        Source: [Jacobs 2025], appendix C.2: "the level just before the accuracy drops 1 %", or 2 % at high sparsity.
        """
        chosen = self.sparsities[0]
        for sparsity, accuracy in zip(self.sparsities, self.accuracies, strict=True):
            if accuracy < self.accuracies[0] - allowed:
                break
            chosen = sparsity
        return chosen

    def chosen(self) -> float:
        """By the paper's rule: before a drop of 1 %, or of 2 % where that lies at high sparsity."""
        patient = self.before_drop(0.02)
        return patient if patient >= HIGH else self.before_drop(0.01)


@torch.no_grad()
def prune_curve(
    model: nn.Module,
    weights: Sequence[str],
    accuracy: Callable[[nn.Module], float],
    levels: Sequence[float] = LEVELS,
) -> PruneCurve:
    """Prune a copy by magnitude, over all layers together, to each of the levels, and measure it. Nothing is trained.

    Args:
        model: a plain network in eval mode; running statistics of batch norm stay as they are.
        weights: names of the prunable weights in its state dict.
        accuracy: of a network.
        levels: sparsities in [0, 1); those at or below that of the network itself are left out but for its own.

    Raises AnalysisError for levels that are none.
    """
    for level in levels:
        if not 0 <= level < 1:
            raise AnalysisError(f"level {level!r} is no sparsity in [0, 1)")
    state = {name: model.state_dict()[name].clone() for name in weights}
    total = sum(weight.numel() for weight in state.values())
    living = sum(int(weight.count_nonzero()) for weight in state.values())
    own = 1 - living / total
    sparsities, accuracies = [own], [accuracy(model)]
    pruned = copy.deepcopy(model)
    for level in sorted(set(levels)):
        # At its own sparsity the network is itself: the curve starts from there.
        kept = kept_count(total, level)
        if kept >= living:
            continue
        pruned.load_state_dict(_masked(state, kept), strict=False)
        sparsities.append(level)
        accuracies.append(accuracy(pruned))
    return PruneCurve(tuple(sparsities), tuple(accuracies))


def _masked(state: Mapping[str, Tensor], kept: int) -> dict[str, Tensor]:
    masks = top_masks({name: weight.abs() for name, weight in state.items()}, kept)
    return {name: weight * masks[name] for name, weight in state.items()}
