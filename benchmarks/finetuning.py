"""A trained net fine-tuned to 80, 90 and 95 % by several methods: docs/results/finetuning.md, .json and .svg.

    python unpack_cifar10.py cifar10 --format npz           # or any folder with train.npz and test.npz
    python -m benchmarks.finetuning --data cifar10          # six minutes of one core; goes on when it was stopped
    python -m benchmarks.finetuning --page                  # only write the page and the picture from the results again

Each seed trains a dense net of its own, and all methods start from that one, with the same number of epochs in all:
cycles share them. Accuracies are of the test images at the end of the last epoch; nothing is chosen by them.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

import sparsify_fx
from benchmarks.finetuning_page import read, write, write_page
from benchmarks.training_cases import machine
from sparsify_fx.finetuning import finetune, reestimate_batch_norm
from sparsify_fx.programs.selection import select_layers
from sparsify_fx.training_cost.surroundings import surroundings
from sparsify_fx.zoo.models.resnet_cifar import CifarResNet

# Half the side, a residual net of 8 layers and few images, so that 54 trainings take minutes and not hours.
SIDE, BATCH = 16, 100
METHODS = ("gmp", "lrr", "acdc", "magnitude", "keep-zeros", "gmp with teacher")
SPARSITIES = (0.8, 0.9, 0.95)
DENSE_RATE, RATE = 0.1, 0.05


@dataclass(frozen=True)
class Images:
    """Images [N, 3, SIDE, SIDE] of mean 0, and labels; batches in a new order, half of them flipped, in each pass."""

    x: Tensor
    y: Tensor
    generator: torch.Generator

    def __len__(self) -> int:
        return len(self.y) // BATCH

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.y), generator=self.generator)
        for part in order[: len(self) * BATCH].split(BATCH):
            flipped = torch.rand(BATCH, 1, 1, 1, generator=self.generator) < 0.5
            yield (
                torch.where(flipped, self.x[part].flip(-1), self.x[part]),
                self.y[part],
            )


def load(folder: Path, part: str, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` images of a part, pixels averaged to SIDE, and their labels."""
    with np.load(folder / f"{part}.npz", allow_pickle=True) as archive:
        images = torch.from_numpy(archive["images"][:count])
        labels = torch.from_numpy(archive["labels"][:count]).long()
    images = images.permute(0, 3, 1, 2).float() / 255
    images = F.adaptive_avg_pool2d(images, SIDE)
    return (images - 0.46) / 0.25, labels


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of the images that are classified rightly."""
    model.eval()
    with torch.no_grad():
        found = torch.cat([model(part).argmax(1) for part in x.split(500)])
    return float((found == y).float().mean())


def train_dense(images: Images, epochs: int, seed: int) -> nn.Module:
    """The net that the others start from."""
    torch.manual_seed(seed)
    model = CifarResNet(1, 3, 10)
    optimizer = torch.optim.SGD(
        model.parameters(), DENSE_RATE, momentum=0.9, weight_decay=5e-4
    )
    curve = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, DENSE_RATE, total_steps=epochs * len(images)
    )
    model.train()
    for _ in range(epochs):
        for x, y in images:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            curve.step()
    return model


def prune_elsewhere(model: nn.Module, sparsity: float) -> None:
    """What somebody else hands over: every layer pruned by itself by torch, by magnitude."""
    for layer in select_layers(model).values():
        owner, name = layer.places[0]
        prune.l1_unstructured(owner, name, amount=sparsity)
    sparsify_fx.fold_masks(model)


def one_run(
    method: str, sparsity: float, dense: nn.Module, images: Images, epochs: int
) -> nn.Module:
    """The dense net fine-tuned; what it ends with is checked against what was asked for."""
    model = copy.deepcopy(dense)
    if method == "keep-zeros":
        prune_elsewhere(model, sparsity)
    report = finetune(
        model,
        method.split()[0],
        sparsity,
        images,
        epochs=epochs,
        learning_rate=RATE,
        teacher=dense if "teacher" in method else None,
    )
    assert report.epochs == epochs
    # torch rounds in every layer by itself; ours are exact to the weight.
    assert abs(report.sparsity - sparsity) < 1e-3
    return model


def untrained(dense: nn.Module, sparsity: float, images: Images, test: Any) -> Any:
    """Accuracies of the net pruned by magnitude and not trained, as it is and with its batch norms estimated again."""
    model = sparsify_fx.merge(
        sparsify_fx.apply(
            copy.deepcopy(dense), "magnitude", schedule="at-init", sparsity=sparsity
        )
    )
    before = accuracy(model, *test)
    reestimate_batch_norm(model, images)
    return [before, accuracy(model, *test)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with train.npz and test.npz")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--tuning", type=int, default=2000, help="images to tune on")
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--dense-epochs", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--page", action="store_true", help="only write the page")
    args = parser.parse_args()
    if args.page:
        page(read())
        return
    if args.data is None:
        parser.error("--data is needed, a folder with train.npz and test.npz")
    torch.set_num_threads(1)
    setting = {
        name: getattr(args, name)
        for name in ("images", "tuning", "test", "dense_epochs", "epochs", "seeds")
    }
    results = read(setting) | {"setting": setting, "surroundings": surroundings()}
    x, y = load(args.data, "train", args.images)
    test = load(args.data, "test", args.test)
    for seed in range(args.seeds):
        measure_seed(results, seed, (x, y), test, args)
    page(results)


def page(results: Any) -> None:
    """docs/results/finetuning.md and .svg."""
    layers = select_layers(CifarResNet(1, 3, 10)).values()
    weights = sum(layer.weight.numel() for layer in layers)
    write_page(results, machine(results["surroundings"]), len(layers), weights)


def measure_seed(results: Any, seed: int, train: Any, test: Any, args: Any) -> None:
    """All runs of a seed that are not there yet; the results are written after each."""

    def images(number: int, count: int) -> Images:
        x, y = train
        return Images(
            x[:count], y[:count], torch.Generator().manual_seed(1000 * seed + number)
        )

    begin = time.process_time()
    dense = train_dense(images(0, args.images), args.dense_epochs, seed)
    results["dense"][str(seed)] = {
        "accuracy": accuracy(dense, *test),
        "seconds": time.process_time() - begin,
    }
    for sparsity in SPARSITIES:
        found = untrained(dense, sparsity, images(1, args.tuning), test)
        results["untrained"][f"{sparsity}/{seed}"] = found
        for method in METHODS:
            key = f"{method}/{sparsity}/{seed}"
            if key in results["runs"]:
                continue
            begin = time.process_time()
            # The same images in the same order for every method.
            model = one_run(
                method, sparsity, dense, images(2, args.tuning), args.epochs
            )
            seconds = time.process_time() - begin
            results["runs"][key] = {
                "accuracy": accuracy(model, *test),
                "seconds": seconds,
            }
            print(f"{key}: {results['runs'][key]}", flush=True)
            write(results)


if __name__ == "__main__":
    main()
