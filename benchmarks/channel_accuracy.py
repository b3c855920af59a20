"""ResNet-20 on CIFAR-10 with fewer channels, by us and by Torch-Pruning: docs/results/channel_accuracy.json and .md.

    python unpack_cifar10.py cifar10 --format npz    # or any folder with train.npz and test.npz
    python -m venv env && env/bin/pip install torch-pruning==1.6.0 -e .      # its environment, with torch
    python -m benchmarks.channel_accuracy --data cifar10 --folder FILES --torch-pruning env/bin/python
    python -m benchmarks.channel_accuracy --folder FILES --speed             # milliseconds, on an idle machine
    python -m benchmarks.channel_accuracy --page                             # only write the page again

Each seed trains a dense net, which all start from; all are fine-tuned alike, on the same images in the same order.
Runs whose results are there are not made again. Accuracies are of the test images at the end of the last epoch; nothing
is chosen by them. Multiply-adds are counted, and nets timed, at 32 x 32 pixels whatever `--side` they are trained on.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsify_fx
from benchmarks.channel_accuracy_page import (
    AGAIN,
    DENSE,
    METHODS,
    NAME,
    OURS,
    SHARES,
    ZEROS,
    page,
)
from benchmarks.channel_nets import resnet20
from benchmarks.channel_speed import in_turn
from benchmarks.finetuning import Images, accuracy
from benchmarks.speed_table import timed
from benchmarks.training_cases import read, write
from sparsify_fx.budgets.counting import count_multiply_adds
from sparsify_fx.training_cost.surroundings import surroundings

RATE, TUNING_RATE = 0.1, 0.02
SETTING = ("images", "tuning_images", "side", "test", "dense_epochs", "epochs")


def load(folder: Path, part: str, count: int, side: int) -> tuple[Tensor, Tensor]:
    """The first `count` images of a part, [N, 3, side, side] of mean 0, and their labels."""
    with np.load(folder / f"{part}.npz", allow_pickle=True) as archive:
        images = torch.from_numpy(archive["images"][:count])
        labels = torch.from_numpy(archive["labels"][:count]).long()
    images = images.permute(0, 3, 1, 2).contiguous().float() / 255
    images = F.adaptive_avg_pool2d(images, side)
    return (images - 0.46) / 0.25, labels


def fit(model: nn.Module, images: Images, epochs: int, rate: float) -> None:
    """SGD with momentum under a one-cycle rate, in place."""
    optimizer = torch.optim.SGD(
        model.parameters(), rate, momentum=0.9, weight_decay=5e-4
    )
    curve = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=epochs * len(images)
    )
    model.train()
    for _ in range(epochs):
        for x, y in images:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            curve.step()


def pruned_by_us(dense: nn.Module, share: float, allocation: str) -> nn.Module:
    """Channels by the norm of the weights that go with them, relative to those of their width, as there; shrunk."""
    model = with_zeros(dense, share, allocation, "channel")
    sparsify_fx.shrink(sparsify_fx.merge(model), torch.zeros(1, 3, 32, 32))
    return model


def with_zeros(
    dense: nn.Module, share: float, allocation: str, granularity: str
) -> nn.Module:
    """A copy with masks that leave this share of the multiply-adds."""
    return sparsify_fx.apply(
        copy.deepcopy(dense).eval(),
        "magnitude",
        sparsity=1 - share,
        budget="macs",
        granularity=granularity,
        allocation=allocation,
        schedule="at-init",
        example_inputs=torch.zeros(1, 3, 32, 32),
    )


def pruned_elsewhere(
    dense: Path, share: float, scope: str, python: str
) -> tuple[nn.Module, str]:
    """Torch-Pruning's group norm in its own environment, and its version; raises RuntimeError with what it says."""
    target = dense.with_name("pruned.pt")
    command = [python, "-m", "benchmarks.torch_pruning_worker", "prune"]
    command += [str(dense), str(target), str(share), scope]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    lines = done.stdout.splitlines()
    found = json.loads(lines[-1]) if lines else {"error": done.stderr[-300:]}
    if "error" in found:
        raise RuntimeError(found["error"])
    model: nn.Module = torch.load(target, weights_only=False)
    return model, found["version"]


def dense_net(results: Any, seed: int, train: Any, test: Any, options: Any) -> Path:
    """The trained dense net of a seed as a file; made once for each setting."""
    setting = f"{options.images}-{options.side}-{options.dense_epochs}-{seed}"
    path: Path = options.folder / f"dense-{setting}.pt"
    key = f"{DENSE}/1/{seed}"
    if not path.exists():
        model = resnet20(seed)
        fit(model, batches(train, seed, 0), options.dense_epochs, RATE)
        torch.save(model.eval(), path)
    if key not in results["runs"]:
        results["runs"][key] = facts(torch.load(path, weights_only=False), test)
        write(NAME, results, page(results))
    return path


def batches(train: Any, seed: int, number: int) -> Images:
    """The training images in an order of its own for each seed and number."""
    return Images(*train, torch.Generator().manual_seed(1000 * seed + number))


def facts(model: nn.Module, test: Any) -> dict[str, float]:
    """Accuracy, multiply-adds by what is not zero, and parameters that are not."""
    work = count_multiply_adds(model.eval(), ((torch.zeros(1, 3, 32, 32),), {}))
    weights = dict(model.named_parameters())
    skipped = sum(
        count * float((weights[name] == 0).float().mean())
        for name, count in work.by_weight.items()
    )
    return {
        "accuracy": accuracy(model, *test),
        "multiply_adds": round(work.total - skipped),
        "parameters": sum(int((p != 0).sum()) for p in model.parameters()),
    }


def measure_seed(results: Any, seed: int, train: Any, test: Any, options: Any) -> None:
    """All runs of a seed that are not there yet; the results are written after each."""
    file = dense_net(results, seed, train, test, options)
    dense = torch.load(file, weights_only=False)
    few = [part[: options.tuning_images] for part in train]
    export(dense, options.folder, DENSE, 1, seed)
    for share in SHARES:
        for method in options.methods:
            key = f"{method}/{share}/{seed}"
            if key in results["runs"]:
                continue
            scope = method.split(", ")[-1]
            if method == ZEROS:
                model = with_zeros(dense, share, "global", "weight")
            elif method.startswith(OURS):
                model = pruned_by_us(dense, share, scope)
            else:
                model, results["torch_pruning"] = pruned_elsewhere(
                    file, share, scope, options.torch_pruning
                )
            before = accuracy(model, *test)
            begin = time.process_time()
            fit(model, batches(few, seed, 1), options.epochs, TUNING_RATE)
            seconds = time.process_time() - begin
            if method == ZEROS:
                sparsify_fx.merge(model)
            found = facts(model, test) | {"untrained": before, "seconds": seconds}
            results["runs"][key] = found
            print(f"{key}: {found}", flush=True)
            export(model, options.folder, method, share, seed)
            write(NAME, results, page(results))


def export(model: nn.Module, folder: Path, method: str, share: float, seed: int) -> None:  # fmt: skip
    """The file that `--speed` times: that of the first seed."""
    file = file_of(folder, method, share)
    if seed == 0 and not file.exists():
        example = torch.zeros(1, 3, 32, 32)
        sparsify_fx.export(model.eval(), file, example, encoding="dense")


def file_of(folder: Path, method: str, share: float) -> Path:
    return folder / f"{method.replace(', ', '-')}-{share:g}.onnx"


def speed(folder: Path, rounds: int, methods: Sequence[str]) -> dict[str, Any]:
    """Seconds of the processor of a run of one image in stock onnxruntime, for each method and share."""
    files = {f"{DENSE}/1": file_of(folder, DENSE, 1)}
    files[AGAIN] = files[f"{DENSE}/1"]
    for share in SHARES:
        for method in methods:
            files[f"{method}/{share}"] = file_of(folder, method, share)
    one = np.zeros((1, 3, 32, 32), np.float32)
    works = {}
    for name, file in files.items():
        if not file.exists():
            raise SystemExit(f"{file.name} is not there; train with the same --folder")
        works[name] = timed(file, {_input_of(file): one}, 1)
    return in_turn({name: lambda w=w: w()[1] for name, w in works.items()}, rounds)


def _input_of(file: Path) -> str:
    import onnx

    return str(onnx.load(file).graph.input[0].name)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with train.npz and test.npz")
    parser.add_argument("--folder", type=Path, help="where nets are kept")
    parser.add_argument("--torch-pruning", help="a Python that has torch-pruning")
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument("--tuning-images", type=int, default=10000, help="of those")
    parser.add_argument("--side", type=int, default=32, help="of the images trained on")
    parser.add_argument("--test", type=int, default=4000)
    parser.add_argument("--dense-epochs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=3, help="how many in all")
    parser.add_argument("--threads", type=int, default=1, help="of the training")
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS)
    parser.add_argument("--rounds", type=int, default=200, help="of --speed")
    parser.add_argument("--speed", action="store_true", help="only time the nets")
    parser.add_argument("--page", action="store_true", help="only write the page")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.tuning_images = min(options.tuning_images, options.images)
    results = read(NAME)
    if options.page:
        write(NAME, results, page(results))
        return
    if options.folder is None:
        parser.error("--folder is needed, where nets are kept")
    if options.speed:
        results["speed"] = speed(options.folder, options.rounds, options.methods)
        write(NAME, results, page(results))
        return
    if options.data is None or options.torch_pruning is None:
        parser.error("--data and --torch-pruning are needed to train and to prune")
    setting = {name: getattr(options, name) for name in SETTING}
    # Accuracies of other settings cannot be compared.
    if results.get("setting") != setting:
        results = {"setting": setting, "runs": {}}
    results["surroundings"] = surroundings()
    options.folder.mkdir(parents=True, exist_ok=True)
    train = load(options.data, "train", options.images, options.side)
    test = load(options.data, "test", options.test, options.side)
    for seed in range(options.first, options.seeds):
        measure_seed(results, seed, train, test, options)


if __name__ == "__main__":
    main()
