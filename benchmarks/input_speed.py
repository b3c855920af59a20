"""Images of ImageNet's size through the loader, beside torchvision's own: docs/results/input_speed.md and .json.

    python -m benchmarks.input_speed                         # 20,000 images, 2.2 GB in a temporary folder; 10 minutes
    python -m benchmarks.input_speed --count 2000 --rounds 2 # quickly
    python -m benchmarks.input_speed --page                  # only write the page from the results again

The loaders take turns, round by round, on equal parts of the images. Processor time of all processes together counts,
reading and the way to the training process included: it is what a core can do, however busy the machine is.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

from benchmarks.input_images import generate
from benchmarks.training_cases import machine, read, table, write
from sparsify_fx.training_cost.surroundings import surroundings
from sparsify_fx.zoo.data import DECODERS, Augment, FolderSource
from sparsify_fx.zoo.data.decode import Listing
from sparsify_fx.zoo.data.loader import Loading
from sparsify_fx.zoo.data.normalize import Normalizer

NAME, SIZE, BATCH = "input_speed", 224, 100
PLAIN, OURS = "ImageFolder + DataLoader", ("pillow", "fast")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Batches = Iterator[tuple[Tensor, Tensor]]


def plain(folder: Path, part: range, workers: int) -> Batches:
    """The listing of torchvision's ImageNet reference."""
    steps = (
        transforms.RandomResizedCrop(SIZE),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    )
    images = datasets.ImageFolder(folder, transforms.Compose(steps))
    chosen = Subset(images, part)
    return iter(DataLoader(chosen, BATCH, shuffle=True, num_workers=workers))


def ours(decode: str, folder: Path, part: range, workers: int) -> Batches:
    listing = Listing.of(folder)
    slices = (listing.paths, listing.labels)
    paths, labels = (each[part.start : part.stop] for each in slices)
    source = FolderSource(
        Listing(paths, labels, listing.classes),
        SIZE,
        Normalizer(MEAN, STD),
        torch.device("cpu"),
        Loading(workers),
        DECODERS[decode],
    )
    return source.epoch(BATCH, train=True, augment=Augment(flip=True))


LOADERS: dict[str, Callable[[Path, range, int], Batches]] = {
    PLAIN: plain,
    **{name: lambda *given, _name=name: ours(_name, *given) for name in OURS},
}


def timed(name: str, folder: Path, part: range, workers: int) -> dict[str, float]:
    """Processor and wall time in seconds of all images of a part."""
    before, start = os.times(), time.perf_counter()
    count = sum(len(x) for x, _ in LOADERS[name](folder, part, workers))
    assert count == len(part), (count, part)
    after = os.times()
    # user, system, and those of the workers, which have ended with their loader.
    used = sum(b - a for a, b in zip(before[:4], after[:4], strict=True))
    return {"processor": used, "wall": time.perf_counter() - start}


def memory(name: str, folder: Path, count: int, workers: int) -> list[dict[str, float]]:
    """Through one epoch, the memory of this process and its workers that no other process shares, in MB."""
    found, seen = [], 0
    for x, _ in LOADERS[name](folder, range(count), workers):
        seen += len(x)
        if seen % (count // 20) < len(x):
            found.append({"images": seen, "megabytes": _private()})
    return found


def _private() -> float:
    """Private pages of this process and its children: pages that were shared and are written to become private."""
    me = os.getpid()
    children = Path(f"/proc/{me}/task/{me}/children").read_text().split()
    total = 0
    for process in (str(me), *children):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Private_"):
                total += int(line.split()[1])
    return total / 1024


def differences(folder: Path, count: int) -> dict[str, dict[str, float]]:
    """Levels of 255 between the two decoders, over the same parts of the same images."""
    paths = Listing.of(folder).paths
    chosen = paths[:: max(1, len(paths) // count)]
    ways = {
        "random crop": lambda decoder, seed, path: decoder.randomly_cropped(
            path, SIZE, mirror=True, seed=seed
        ),
        "middle": lambda decoder, seed, path: decoder.centered(path, SIZE, 256),
    }
    found = {}
    for name, way in ways.items():
        apart = []
        for seed, path in enumerate(chosen):
            one, other = (way(DECODERS[each], seed, path).int() for each in OURS)
            apart.append((one - other).abs())
        levels = torch.stack(apart).double()
        found[name] = {"most": levels.max().item(), "mean": levels.mean().item()}
    return found


def measured(folder: Path, count: int, rounds: int, workers: int) -> dict[str, Any]:
    """Everything, for JSON."""
    images = generate(folder, count)
    print(f"images: {images}", flush=True)
    size = count // rounds
    parts = [range(i * size, (i + 1) * size) for i in range(rounds)]
    times: dict[str, list[dict[str, float]]] = {name: [] for name in LOADERS}
    for part in parts:
        for name, each in times.items():
            each.append(timed(name, folder, part, workers))
            rate = len(part) / each[-1]["processor"]
            print(f"{part} {name}: {rate:.0f} images a core-second", flush=True)
    return {
        "count": count,
        "workers": workers,
        "images": images,
        "images_a_round": size,
        "seconds": times,
        "memory": {name: memory(name, folder, count, workers) for name in LOADERS},
        "differences": differences(folder, 500),
        "surroundings": surroundings(),
    }


HEAD = """# Images through the loader

{count:,} generated JPEGs of ImageNet's sizes: {width:.0f}x{height:.0f} pixels and {kilobytes:.0f} kB on average
([Deng 2009] gives 400x350 pixels; the training set has 138 GB in 1,281,167 files). Random resized crops of 224 pixels,
flips, normalized float batches of {batch} in the training process, {workers} workers. Images per second of processor
time, all processes together; the loaders take turns in {rounds} rounds.

{speed}

Memory through one epoch of all images: private pages of the training process and its workers, in MB.

{memory}

The decoders beside each other, the same parts of 500 images, in levels of 255:

{differences}

Written by `python -m benchmarks.input_speed`; raw figures: input_speed.json. {machine}
"""


def page(found: dict[str, Any]) -> str:
    """The page of these results."""
    per_core = {
        name: [found["images_a_round"] / each["processor"] for each in times]
        for name, times in found["seconds"].items()
    }
    speed = [("loader", "images per core and second", "of torchvision's", "least")]
    for name, rates in per_core.items():
        ratios = [a / b for a, b in zip(rates, per_core[PLAIN], strict=True)]
        told = name if name == PLAIN else f"`decode: {name}`"
        middle = f"{statistics.median(rates):.0f}"
        ratio = f"{statistics.median(ratios):.2f}"
        speed.append((told, middle, ratio, f"{min(ratios):.2f}"))
    grown = [("loader", "after 1/10", "half", "end")]
    for name, seen in found["memory"].items():
        places = (seen[1], seen[len(seen) // 2 - 1], seen[-1])
        grown.append((name, *(f"{place['megabytes']:.0f}" for place in places)))
    apart = [("part", "most", "mean")]
    for name, levels in found["differences"].items():
        apart.append((name, f"{levels['most']:.0f}", f"{levels['mean']:.4f}"))
    images = found["images"]
    return HEAD.format(
        **{key: found[key] for key in ("count", "workers")},
        **{key: images[key] for key in ("width", "height")},
        kilobytes=images["bytes"] / 1000,
        batch=BATCH,
        rounds=len(found["seconds"][PLAIN]),
        speed=table(*speed),
        memory=table(*grown),
        differences=table(*apart),
        machine=machine(found["surroundings"]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="kept; a temporary one by default")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = read(NAME)
    if not options.page:
        with tempfile.TemporaryDirectory() as temporary:
            found = measured(
                options.folder or Path(temporary),
                options.count,
                options.rounds,
                options.workers,
            )
    write(NAME, found, page(found))


if __name__ == "__main__":
    main()
