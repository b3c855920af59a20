"""The cost of one threshold over a whole model: docs/results/global_threshold.json, and its table in markdown.

    python benchmarks/global_threshold.py                        # about 3 minutes on one core
    python benchmarks/global_threshold.py --weights 2000000 --rounds 5 --out threshold.json

The masks of a net with the layers of ResNet-50 are chosen by the allocation "global", beside `torch.kthvalue` on the
same scores in one piece, which finds the threshold alone. Every round times each candidate once, in turn, by processor
time of one thread; kthvalue is timed twice in a round, so that the ratio of the two shows the noise.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torchvision
from torch import Tensor

import sparsify_fx
from sparsify_fx.allocations import Global
from sparsify_fx.criteria import CRITERIA, Criterion, PruningContext
from sparsify_fx.criteria.choosing import choose_masks
from sparsify_fx.errors import SparsifyWarning
from sparsify_fx.masks import nonzeros
from sparsify_fx.programs.selection import select_layers

Scores = dict[str, Tensor]


@dataclass(frozen=True)
class Given:
    """Scores that are there already: what remains is the check of their shapes and the choice."""

    values: Scores
    needs: ClassVar[tuple[str, ...]] = ()

    def scores(self, context: PruningContext) -> Scores:
        return self.values


def shapes(total: int) -> dict[str, tuple[int, ...]]:
    """ResNet-50's prunable weights; other totals shrink every layer's first dimension alike."""
    with torch.device("meta"):
        found = {
            name: tuple(layer.weight.shape)
            for name, layer in select_layers(torchvision.models.resnet50()).items()
        }
    share = total / sum(torch.Size(shape).numel() for shape in found.values())
    return {
        name: (max(1, round(shape[0] * share)), *shape[1:])
        for name, shape in found.items()
    }


def chosen(
    criterion: Criterion, weights: Scores, kept: int, alive: Scores | None = None
) -> Callable[[], Scores]:
    context = PruningContext(
        weights, torch.Generator().manual_seed(0), kept, Global(), alive=alive
    )
    return lambda: choose_masks(criterion, context)


def candidates(total: int, sparsity: float) -> dict[str, Callable[[], Any]]:
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(shape, generator=generator)
        for name, shape in shapes(total).items()
    }
    flat = torch.cat([weight.abs().flatten() for weight in weights.values()])
    kept = round((1 - sparsity) * flat.numel())
    scores = {name: weight.abs() for name, weight in weights.items()}
    alive = {
        name: (torch.rand(w.shape, generator=generator) < 0.5).to(torch.uint8)
        for name, w in weights.items()
    }
    tied = {name: score.mul(8).round() for name, score in scores.items()}
    mixed = {
        name: score.to([torch.float32, torch.bfloat16][i % 2])
        for i, (name, score) in enumerate(scores.items())
    }

    def kthvalue() -> Tensor:
        return torch.kthvalue(flat, flat.numel() - kept + 1).values

    return {
        "kthvalue": kthvalue,
        "kthvalue again": kthvalue,
        "scores given": chosen(Given(scores), weights, kept),
        "magnitude": chosen(CRITERIA["magnitude"], weights, kept),
        "scores given, half pruned before": chosen(
            Given(scores), weights, kept // 2, alive
        ),
        "scores given, many ties": chosen(Given(tied), weights, kept),
        "scores given, float32 and bfloat16": chosen(Given(mixed), weights, kept),
    }


def measure(total: int, sparsity: float, rounds: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    # Many ties are one of the cases; the process ends after this.
    warnings.simplefilter("ignore", SparsifyWarning)
    todo = candidates(total, sparsity)
    times: dict[str, list[float]] = {name: [] for name in todo}
    for round_ in range(rounds + 1):
        for name, run in todo.items():
            start = time.process_time()
            result = run()
            if round_:  # the first one warms up
                times[name].append(time.process_time() - start)
            del result
    masks = todo["scores given"]()
    base = statistics.median(times["kthvalue"])
    return {
        "weights": sum(mask.numel() for mask in masks.values()),
        "kept": nonzeros(masks),
        "layers": len(masks),
        "sparsity": sparsity,
        "seconds": times,
        "median": {name: statistics.median(each) for name, each in times.items()},
        "ratio to kthvalue": {
            name: statistics.median(each) / base for name, each in times.items()
        },
        "versions": {
            "sparsify_fx": sparsify_fx.__version__,
            "torch": torch.__version__,
        },
        "processor": platform.processor() or platform.machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=int, default=25_000_000)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--out", type=Path, default=Path("docs/results/global_threshold.json")
    )
    options = parser.parse_args()
    result = measure(options.weights, options.sparsity, options.rounds)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, ratio in result["ratio to kthvalue"].items():
        print(f"{name:40} {1000 * result['median'][name]:8.1f} ms  {ratio:.2f}x")


if __name__ == "__main__":
    main()
