"""MixUp and CutMix of training batches, by torchvision, as a function of (seed, epoch, step)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from sparsify_fx.zoo.data.batching import mix_seed

Batches = Iterator[tuple[Tensor, Tensor]]


def mixed(
    batches: Batches,
    num_classes: int,
    *,
    mixup: float,
    cutmix: float,
    seed: int,
    epoch: int,
    start: int,
) -> Batches:
    """The batches with each image mixed with the one before it, and labels as shares of classes, float32 [N, K].

    Args:
        mixup, cutmix: α of Beta(α, α), from which the share is drawn; 0 leaves one out. Of both, each batch draws one.
        start: the number in its epoch of the first of these batches.
    """
    mix = _mixer(num_classes, mixup, cutmix)
    for step, (images, labels) in enumerate(batches, start):
        # torchvision draws from torch's global CPU generator and takes no other; the fork leaves no trace in it.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(mix_seed(seed, epoch, "mix", step))
            yield mix(images, labels)


def _mixer(num_classes: int, mixup: float, cutmix: float) -> Callable[..., Any]:
    from torchvision.transforms import v2

    kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
    chosen = [kind(alpha=a, num_classes=num_classes) for kind, a in kinds if a > 0]
    mixer: Callable[..., Any] = (
        chosen[0] if len(chosen) == 1 else v2.RandomChoice(chosen)
    )
    return mixer
