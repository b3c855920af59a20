"""Fewer channels in stock onnxruntime and in training, and zeros in what is left: docs/results/channel_speed.json, .md.

    python -m benchmarks.channel_speed --folder FILES --prepare    # prune, shrink and export once, a few minutes
    python -m benchmarks.channel_speed --folder FILES --inference  # a minute on an idle machine
    python -m benchmarks.channel_speed --folder FILES --training   # two minutes
    python -m benchmarks.channel_speed --page                      # only write the page from the results again

ResNet-50 of torchvision with random weights: speed depends on how many channels there are, not on which. One thread, a
batch of one image, seconds of the processor; all cases run in turn, each after a run that is not counted, and the dense
model twice.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.channel_models import (
    DENSE,
    Case,
    cases,
    dense_model,
    facts,
    images,
    write_case,
)
from benchmarks.speed_table import timed
from benchmarks.training_cases import machine, read, table, write
from sparsify_fx.training_cost.surroundings import surroundings

NAME, AGAIN = "channel_speed", "dense again"
BATCH = 4  # of a training step
WANTED = 0.6  # of the dense step, at half of the multiply-adds

PAGE = """# Fewer channels, measured

ResNet-50 of torchvision with random weights, channels pruned by `granularity="channel"` (a multiple of 4 of each
width stays), `"channel:1"` (any number) or multiples of 8 and 16, `budget="macs"`, each width by the same fraction,
`shrink`, `export`. *Times as fast* is the median over {rounds} rounds of the processor time of the dense file over
that of the case, one thread, a batch of one image of 224 x 224; *dense again* is noise. Dense files run in stock
onnxruntime alone; *90 % zeros* are scattered in what is left and run by the sparse operators (`target="sparse-ort"`),
compared with the file of the same channels without zeros.

{inference}

A step of training, forward, backward and SGD with momentum, of {batch} images, the model of half the multiply-adds
after `shrink` beside the dense one:

{training}

Made with `python -m benchmarks.channel_speed`; all samples are in [the raw results](channel_speed.json). {machine}
"""


def inference(folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds of the processor of every case and round, and facts of their files."""
    one = images(1).numpy()
    works = {}
    for case in cases():
        file = folder / f"{case.stem}.onnx"
        works[case.name] = timed(file, {_input_of(file): one}, 1)
    first = cases()[0]
    works[AGAIN] = works[first.name]
    taken = in_turn({name: lambda w=w: w()[1] for name, w in works.items()}, rounds)
    return {
        "rounds": rounds,
        "seconds": taken,
        "facts": {case.name: facts(case, folder) for case in cases()},
        "surroundings": surroundings(),
    }


def _input_of(file: Path) -> str:
    import onnx

    return str(onnx.load(file, load_external_data=False).graph.input[0].name)


def in_turn(
    works: dict[str, Callable[[], float]], rounds: int
) -> dict[str, list[float]]:
    """What each returns, round after round."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            taken[name].append(work())
    return taken


def training(folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds of the processor of a step of every case and round."""
    named = {DENSE: Case(1, ""), AGAIN: Case(1, "")}
    named |= {c.name: c for c in (Case(0.5, "channel"), Case(0.5, "channel:8"))}
    works = {}
    for name, case in named.items():
        model = torch.load(folder / f"{case.stem}.pt", weights_only=False)
        works[name] = step_of(model)
    in_turn(works, 1)  # the first step allocates
    gc.collect()
    return {
        "rounds": rounds,
        "batch": BATCH,
        "seconds": in_turn(works, rounds),
        "surroundings": surroundings(),
    }


def step_of(model: nn.Module) -> Callable[[], float]:
    """A step of SGD with momentum; its seconds of the processor."""
    inputs, targets = images(BATCH), torch.arange(BATCH)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    model.train()

    def step() -> float:
        begin = time.process_time()
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        return time.process_time() - begin

    return step


def times(base: list[float], other: list[float]) -> float:
    """How many times as fast as the base: the median of the ratios within a round.

    >>> times([2, 4, 9], [1, 2, 3])
    2.0
    """
    return statistics.median(b / o for b, o in zip(base, other, strict=True))


def inference_table(found: dict[str, Any]) -> str:
    """A row for each case."""
    seconds, of = found["seconds"], found["facts"]
    rows = [
        ("model", "MACs", "parameters", "file, MB", "ms", "times as fast", "as without zeros", "wanted")
    ]  # fmt: skip
    dense = of[DENSE]
    for case in cases():
        mine = of[case.name]
        beside = times(seconds[case.beside], seconds[case.name])
        rows.append(
            (
                case.name,
                f"{mine['multiply_adds'] / dense['multiply_adds']:.3f}",
                f"{mine['parameters'] / dense['parameters']:.3f}",
                f"{mine['bytes'] / 1e6:.1f}",
                f"{1e3 * statistics.median(seconds[case.name]):.1f}",
                f"{times(seconds[DENSE], seconds[case.name]):.2f}",
                f"{beside:.2f}" if case.zeros and case.share < 1 else "",
                f"{case.wanted:.1f}" if case.wanted else "",
            )
        )
    again = f"{times(seconds[DENSE], seconds[AGAIN]):.2f}"
    rows.append((AGAIN, "", "", "", "", again, "", ""))
    return table(*rows)


def training_table(found: dict[str, Any]) -> str:
    """A row for each case."""
    seconds = found["seconds"]
    rows = [("model", "s", "of the dense step", "wanted")]
    for name, taken in seconds.items():
        share = 1 / times(seconds[DENSE], taken)
        wanted = f"{WANTED:.2f}" if name not in (DENSE, AGAIN) else ""
        rows.append((name, f"{statistics.median(taken):.2f}", f"{share:.2f}", wanted))
    return table(*rows)


def page(results: dict[str, Any]) -> str:
    """docs/results/channel_speed.md."""
    return PAGE.format(
        rounds=results["inference"]["rounds"],
        inference=inference_table(results["inference"]),
        batch=BATCH,
        training=training_table(results["training"])
        if "training" in results
        else "not measured yet",
        machine=machine(results["inference"]["surroundings"]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="where the models' files are kept")
    parser.add_argument("--rounds", type=int, default=15)
    for part in ("prepare", "inference", "training", "page"):
        parser.add_argument(f"--{part}", action="store_true", help=f"only {part}")
    options = parser.parse_args()
    chosen = [p for p in ("prepare", "inference", "training") if getattr(options, p)]
    if not chosen and not options.page:
        chosen = ["prepare", "inference", "training"]
    if chosen and options.folder is None:
        parser.error("--folder is needed, a folder for the models' files")
    torch.set_num_threads(1)
    results = read(NAME)
    if "prepare" in chosen:
        options.folder.mkdir(parents=True, exist_ok=True)
        dense = dense_model()
        for case in cases():
            write_case(case, dense, options.folder)
            print(case.name, flush=True)
    if "inference" in chosen:
        results["inference"] = inference(options.folder, options.rounds)
    if "training" in chosen and "inference" not in results:
        parser.error("measure --inference first: the page begins with it")
    if "training" in chosen:
        results["training"] = training(options.folder, options.rounds)
    # Of files that were only made there is nothing to tell yet.
    if chosen != ["prepare"] and "inference" in results:
        write(NAME, results, page(results))


if __name__ == "__main__":
    main()
