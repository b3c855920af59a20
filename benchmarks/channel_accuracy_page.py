"""The page of `benchmarks.channel_accuracy`: docs/results/channel_accuracy.md."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.training_cases import machine, table

NAME = "channel_accuracy"
DENSE, AGAIN, OURS, THEIRS = "dense", "dense again", "ours", "Torch-Pruning"
# Compared are those that divide alike: over the whole net, or the same fraction of each layer.
PAIRS = (
    (f"{OURS}, global", f"{THEIRS}, global"),
    (f"{OURS}, uniform", f"{THEIRS}, local"),
)
ZEROS = "scattered zeros"
METHODS = (*PAIRS[0], *PAIRS[1], ZEROS)
SHARES = (0.5, 0.25)

# Student's t at 95 %, two-sided, by degrees of freedom.
_T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365}

PAGE = """# Channels and accuracy, measured

ResNet-20 (projections in its two shortcuts, since Torch-Pruning does not follow padded ones) on CIFAR-10, a
deliberately small setting: {images:,} images of {side} x {side} pixels, {dense_epochs} epochs of training, then
pruning to a share of the multiply-adds and {epochs} of fine-tuning on {tuning_images:,} of the images, alike for
all; {test:,} test images, {seeds} seeds. *Ours* is `magnitude` with `granularity="channel"` and `budget="macs"`, then
`shrink`; Torch-Pruning is {version}'s `GroupNormPruner` with its group magnitude, in small steps down to the same
share; *scattered zeros* are `magnitude` on single weights, whose multiply-adds by zeros do not count. Accuracies are
the means over the seeds, in per cent; *before* is before fine-tuning. Milliseconds are those of a run of one image of
32 x 32 in stock onnxruntime, one thread of the processor, of the first seed's net.

{accuracies}

Differences of accuracy in points, ours less Torch-Pruning's, over the same seeds, with the 95 % interval of their
mean (Student's t): an interval that holds zero says that this many seeds do not tell the two apart.

{differences}

Made with `python -m benchmarks.channel_accuracy`; each run is in [the raw results](channel_accuracy.json).
{machine}
"""


def page(results: dict[str, Any]) -> str:
    """The page of what is there."""
    runs = results["runs"]
    seeds = {key.rpartition("/")[2] for key in runs}
    return PAGE.format(
        **results["setting"],
        version=results.get("torch_pruning", "1.6"),
        seeds=len(seeds),
        accuracies=accuracies(results),
        differences=differences(runs),
        machine=machine(results["surroundings"]),
    )


def accuracies(results: dict[str, Any]) -> str:
    """A row for each method and share."""
    runs, seconds = results["runs"], results.get("speed", {})
    rows = [("method", "MACs", "parameters", "before", "accuracy", "ms")]
    asked = [(DENSE, 1.0)]
    for share in SHARES:
        asked += [(method, share) for method in METHODS]
    dense = of(runs, DENSE, 1)
    for method, share in asked:
        found = of(runs, method, share)
        if not found:
            continue
        taken = seconds.get(f"{method}/{share:g}")
        left = (
            _mean(found, name) / _mean(dense, name)
            for name in ("multiply_adds", "parameters")
        )
        rows.append(
            (
                method,
                *(f"{each:.3f}" for each in left),
                "" if method == DENSE else f"{100 * _mean(found, 'untrained'):.1f}",
                f"{100 * _mean(found, 'accuracy'):.1f}",
                f"{1e3 * statistics.median(taken):.2f}" if taken else "",
            )
        )
    if AGAIN in seconds:
        again = f"{1e3 * statistics.median(seconds[AGAIN]):.2f}"
        rows.append((AGAIN, "", "", "", "", again))
    return table(*rows)


def differences(runs: dict[str, Any]) -> str:
    """A row for each pair and share."""
    rows = [("share of the multiply-adds", "ours", "Torch-Pruning", "difference")]
    for share in SHARES:
        for ours, theirs in PAIRS:
            mine, other = of(runs, ours, share), of(runs, theirs, share)
            both = sorted(mine.keys() & other.keys())
            found = [100 * (mine[s]["accuracy"] - other[s]["accuracy"]) for s in both]
            if found:
                rows.append((f"{share:g}", ours, theirs, interval(found)))
    return table(*rows)


def of(runs: dict[str, Any], method: str, share: float) -> dict[str, Any]:
    """The runs of a method at a share, by seed."""
    start = f"{method}/{share:g}/"
    return {key.removeprefix(start): r for key, r in runs.items() if key.startswith(start)}  # fmt: skip


def _mean(found: dict[str, Any], name: str) -> float:
    return statistics.mean(run[name] for run in found.values())


def interval(found: list[float]) -> str:
    """The mean, and the 95 % interval of it.

    >>> interval([1.0, 2.0, 3.0])
    '+2.0 ± 2.5'
    """
    mean = statistics.mean(found)
    if len(found) < 2:
        return f"{mean:+.1f}"
    wide = _T95[len(found) - 1] * statistics.stdev(found) / len(found) ** 0.5
    return f"{mean:+.1f} ± {wide:.1f}"
