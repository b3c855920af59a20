"""Fingerprints of what this package makes, to see that a change of its structure changes no bit.

    python -m benchmarks.same_bits record before.json     # about six minutes
    python -m benchmarks.same_bits compare before.json    # after the change: names whatever differs

Recorded are, for every method and the sums of the papers and three seeds, masks and weights after a short training on
real digits; the weights and the log of three runs of the trainer; and exported and packed files in every encoding. The
fingerprints hold on one machine with one set of libraries alone: floating-point sums differ between them.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.onnx_export import pack_onnx
from sparsify_fx.recipe import METHODS, find_method
from sparsify_fx.train import load_config, train
from sparsify_fx.zoo.data import Data, load_data

SEEDS = (0, 1, 2)
SUMS = (
    "acdc+signin",
    "lrr+pilot",
    "lrr+signin",
    "lrr+snip",
    "pilot+wr",
    "rigl+signin",
    "signin+snip",
    "signin+synflow",
)
RUNS = {
    "lrr+signin": ["sparsity=0.36", "epochs=2"],
    "gmp": ["sparsity=0.9", "epochs=2"],
    "str": ["sparsity=0.8", "epochs=2"],
}
ENCODINGS = ("dense", "coo", "gap", "bitmask", "auto")


def fingerprint(tensors: dict[str, torch.Tensor]) -> str:
    """A hash of names, types, shapes and bits."""
    found = hashlib.blake2b(digest_size=12)
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(
            tensor.detach()
            .cpu()
            .contiguous()
            .reshape(-1)
            .view(torch.uint8)
            .numpy()
            .tobytes()
        )
    return found.hexdigest()


def net(seed: int) -> nn.Module:
    """A small convolutional net with batch norms."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 7 * 7, 10),
    )  # fmt: skip


def trained(method: str, seed: int) -> nn.Module:
    """The net after four epochs of eight steps with this method."""
    data = load_data("mnist5k")
    scoring = list(
        itertools.islice(data.train.epoch(64, train=True, seed=seed, epoch=99), 2)
    )
    model = sparsify_fx.apply(
        net(seed), method, sparsity=0.55, seed=seed, batches=scoring, loss_fn=F.cross_entropy
    )  # fmt: skip
    optimizer = torch.optim.SGD(
        sparsify_fx.parameter_groups(model, weight_decay=1e-4), lr=0.05, momentum=0.9
    )
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=4, steps_per_epoch=8)
    for step in range(32):
        inputs, labels = _batch(data, seed, step)
        if scheduler.needs_batch:
            scheduler.score_on(inputs, labels, F.cross_entropy)
        optimizer.zero_grad()
        outputs = model(inputs)
        (F.cross_entropy(outputs, labels) + scheduler.penalty()).backward()
        optimizer.step()
        scheduler.observe(accuracy=float((outputs.argmax(1) == labels).float().mean()))
        scheduler.step()
    return model


def _batch(data: Data, seed: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The batch of a step of 8 an epoch."""
    epoch, at = divmod(step, 8)
    return next(
        itertools.islice(
            data.train.epoch(64, train=True, seed=seed, epoch=epoch), at, None
        )
    )


def methods() -> Iterator[tuple[str, str]]:
    """Masks, factors and weights of every method."""
    find_method("dense")
    for method in (*METHODS, *SUMS):
        for seed in SEEDS:
            try:
                model = trained(method, seed)
            except (
                sparsify_fx.errors.SparsifyError
            ) as error:  # the error is what must stay
                yield f"{method} seed {seed}", f"{type(error).__name__}: {error}"
                continue
            tensors = {
                name: value
                for name, value in model.state_dict().items()
                if isinstance(value, torch.Tensor)
            }
            yield f"{method} seed {seed}", fingerprint(tensors)


def runs() -> Iterator[tuple[str, str]]:
    """The merged weights of three runs of the trainer, and the losses in their logs."""
    for method, overrides in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            settings = [
                f"method={method}",
                *overrides,
                "batch_size=500",
                "learning_rate.warmup=1",
            ]
            result = train(
                load_config("mnist5k-lenet5", settings), runs_dir=folder, progress=False
            )
            weights = load_file(next(Path(folder).rglob("model.safetensors")))
            yield f"run {method} weights", fingerprint(weights)
            yield f"run {method} accuracy", repr((result.loss, result.test_accuracy))


def files() -> Iterator[tuple[str, str]]:
    """The bytes of exported and packed files."""
    model = trained("magnitude", 0)
    sparsify_fx.merge(model)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model.onnx"
        for encoding, values in itertools.product(
            ENCODINGS, ("fp32", "fp32-packed", "fp16", "int8")
        ):
            sparsify_fx.export(
                model,
                target,
                torch.ones(1, 1, 28, 28),
                encoding=encoding,
                values=values,
            )
            yield (
                f"export {encoding} {values}",
                hashlib.blake2b(target.read_bytes(), digest_size=12).hexdigest(),
            )
        sparsify_fx.export(model, target, torch.ones(1, 1, 28, 28), target="sparse-ort")
        yield (
            "export sparse-ort",
            hashlib.blake2b(target.read_bytes(), digest_size=12).hexdigest(),
        )
        sparsify_fx.export(model, target, torch.ones(1, 1, 28, 28), encoding="dense")
        for name in ("onnx", "sparse-ort"):
            pack_onnx(target, Path(folder) / "packed.onnx", target=name)
            data = (Path(folder) / "packed.onnx").read_bytes()
            yield f"pack {name}", hashlib.blake2b(data, digest_size=12).hexdigest()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("record", "compare"))
    parser.add_argument("file", type=Path)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = dict(itertools.chain(methods(), runs(), files()))
    if given.what == "record":
        given.file.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{len(found)} fingerprints in {given.file}")
        return
    before = json.loads(given.file.read_text())
    different = sorted(
        name
        for name in before.keys() | found.keys()
        if before.get(name) != found.get(name)
    )
    print(*different, f"{len(found)} compared; {len(different)} differ", sep="\n")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
