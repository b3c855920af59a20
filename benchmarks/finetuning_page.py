"""The page of benchmarks/finetuning.py: its results as a table and a picture."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "docs/results"
RAW = FOLDER / "finetuning.json"
EMPTY: dict[str, Any] = {"dense": {}, "untrained": {}, "runs": {}}
# Two-sided 95 %, by number of seeds.
STUDENT_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
# Of Okabe and Ito, which the colour-blind tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")

PAGE = """# Fine-tuning, measured

A residual net of {layers} layers ({weights:,} prunable weights), trained on {images:,} images of CIFAR-10 at
half their side for {dense_epochs} epochs, is fine-tuned on {tuning:,} of them for {epochs} epochs in all, by
every method from the same weights, with the same images in the same order. Accuracy on {test:,} test images in
per cent, mean and 95 % interval over {seeds} seeds (each with a dense net of its own, {dense} % accurate). The
images are lossy copies and few, the training is short: it compares methods with each other in minutes, and says
nothing of what they reach in a long training.

{table}

`magnitude`, `gmp`, `lrr`, `acdc`: `sparsify_fx.finetune`, global allocation. `keep-zeros`: each layer was
pruned to the sparsity by `torch.nn.utils.prune.l1_unstructured`, a uniform allocation, and only retrained here.
"pruned, not trained": by magnitude, global.

![Accuracy against sparsity by method](finetuning.svg)

{found}

Made by `python -m benchmarks.finetuning --data FOLDER`. {machine} Raw results: `docs/results/finetuning.json`.
"""


def read(setting: Any = None) -> dict[str, Any]:
    """The results so far; none where they are of another setting."""
    if not RAW.exists():
        return dict(EMPTY)
    found: dict[str, Any] = json.loads(RAW.read_text(encoding="utf-8"))
    return dict(EMPTY) if setting not in (None, found["setting"]) else found


def write(results: dict[str, Any]) -> None:
    """The raw results."""
    RAW.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half-width of the 95 % interval, in per cent; 0 for one value."""
    mean = 100 * statistics.mean(values)
    if len(values) < 2:
        return mean, 0.0
    spread = statistics.stdev(values) / len(values) ** 0.5
    return mean, 100 * STUDENT_T[len(values)] * spread


def cells(results: dict[str, Any]) -> dict[str, dict[float, list[float]]]:
    """Accuracies by row of the table and sparsity, in the order of the seeds."""
    found: dict[str, dict[float, list[float]]] = {}
    for key, run in results["runs"].items():
        method, sparsity, _ = key.split("/")
        by_sparsity = found.setdefault(method, {})
        by_sparsity.setdefault(float(sparsity), []).append(run["accuracy"])
    for row, place in (
        ("pruned, not trained", 0),
        ("pruned, batch norms estimated again", 1),
    ):
        for key, pair in results["untrained"].items():
            by_sparsity = found.setdefault(row, {})
            by_sparsity.setdefault(float(key.split("/")[0]), []).append(pair[place])
    return found


def table(found: dict[str, dict[float, list[float]]], columns: Iterable[float]) -> str:
    """Markdown."""
    columns = list(columns)
    lines = [
        "| method | " + " | ".join(f"{100 * s:g} %" for s in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for row, values in found.items():
        shown = ["{:.1f} ± {:.1f}".format(*interval(values[s])) for s in columns]
        lines.append(f"| {row} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def differences(found: dict[str, dict[float, list[float]]], column: float) -> str:
    """What the figures say, on equal seeds: differences to `magnitude` and of the teacher."""
    base = found["magnitude"][column]
    told = []
    for row, values in found.items():
        if row in ("magnitude", "gmp with teacher") or row.startswith("pruned"):
            continue
        pairs = zip(values[column], base, strict=True)
        mean, half = interval([value - of for value, of in pairs])
        told.append(f"`{row}` {mean:+.1f} ± {half:.1f}")
    pairs = zip(found["gmp with teacher"][column], found["gmp"][column], strict=True)
    mean, half = interval([value - of for value, of in pairs])
    return (
        f"On equal seeds at {100 * column:g} %, in points against `magnitude`: {', '.join(told)}. A teacher adds "
        f"{mean:+.1f} ± {half:.1f} to `gmp`. An interval that holds 0 shows no difference."
    )


def draw(
    found: dict[str, dict[float, list[float]]], dense: tuple[float, float]
) -> None:
    """docs/results/finetuning.svg."""
    import matplotlib

    matplotlib.use("agg")
    # The same bytes from the same results.
    matplotlib.rcParams["svg.hashsalt"] = "finetuning"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.8), layout="constrained")
    axes.axhline(dense[0], color="0.5", linestyle=":", label="dense")
    rows = [row for row in found if not row.startswith("pruned")]
    for number, row in enumerate(rows):
        # Beside each other, or intervals would hide each other.
        shift = 0.25 * (number - (len(rows) - 1) / 2)
        points = sorted(found[row].items())
        middle, half = zip(*(interval(values) for _, values in points), strict=True)
        axes.errorbar(
            [100 * s + shift for s, _ in points], middle, half, color=COLORS[number],
            marker="osD^vP"[number], markersize=4, capsize=2, linewidth=1, label=row,
        )  # fmt: skip
    axes.set_xlabel("sparsity (%)")
    axes.set_ylabel("test accuracy (%)")
    axes.set_xticks([100 * s for s in sorted(found["gmp"])])
    axes.legend(fontsize=8)
    figure.savefig(FOLDER / "finetuning.svg", metadata={"Date": None})
    pyplot.close(figure)


def write_page(
    results: dict[str, Any], machine: str, layers: int, weights: int
) -> None:
    """The page and its picture."""
    found = cells(results)
    columns = sorted(found["gmp"])
    dense = interval([run["accuracy"] for run in results["dense"].values()])
    text = PAGE.format(
        **results["setting"],
        layers=layers,
        weights=weights,
        dense="{:.1f} ± {:.1f}".format(*dense),
        table=table(found, columns),
        found=differences(found, columns[-1]),
        machine=machine,
    )
    (FOLDER / "finetuning.md").write_text(text, encoding="utf-8")
    draw(found, dense)
