"""MixUp and CutMix of training batches, by torchvision, as a function of (seed, epoch, step)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
    pieces: range = range(1),
) -> Batches:
    """The batches with each image mixed with the one before it, and labels as shares of classes, float32 [N, K].

    Args:
        mixup, cutmix: α of Beta(α, α), from which the share is drawn; 0 leaves one out. Of both, each batch draws one.
        start: the number in its epoch of the first of these batches.
        pieces: the numbers of the micro-batches that each of them is made of; each piece is mixed by itself.
    """
    mix = _mixer(num_classes, mixup, cutmix)
    for step, batch in enumerate(batches, start):
        # As many seeds as pieces: whichever process has one, it is mixed alike.
        seeds = [
            mix_seed(seed, epoch, f"mix {number}" if number else "mix", step)
            for number in pieces
        ]
        yield _by_pieces(mix, *batch, seeds)


def _by_pieces(
    mix: Callable[..., Any], images: Tensor, labels: Tensor, seeds: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Equal pieces of a batch, each mixed with a seed of its own."""
    each = len(images) // len(seeds)
    found: list[tuple[Tensor, Tensor]] = []
    # torchvision draws from torch's global CPU generator and takes no other; the fork leaves no trace in it.
    with torch.random.fork_rng(devices=[]):
        for x, y, seed in zip(
            torch.split(images, each), torch.split(labels, each), seeds, strict=True
        ):
            torch.default_generator.manual_seed(seed)
            found.append(mix(x, y))
    if len(found) == 1:
        return found[0]
    x, y = (torch.cat(parts) for parts in zip(*found, strict=True))
    return x, y


def _mixer(num_classes: int, mixup: float, cutmix: float) -> Callable[..., Any]:
    from torchvision.transforms import v2

    kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
    chosen = [kind(alpha=a, num_classes=num_classes) for kind, a in kinds if a > 0]
    mixer: Callable[..., Any] = (
        chosen[0] if len(chosen) == 1 else v2.RandomChoice(chosen)
    )
    return mixer
