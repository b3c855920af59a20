"""Accuracy and milliseconds against sparsity for one net: the picture on the first page of the docs, and its numbers.

    python -m benchmarks.landing                # about two minutes of processor time; finished runs are not repeated
    python -m benchmarks.landing --draw         # docs/figures/landing.svg again from docs/results/landing.json

LeNet-300-100 on 4,000 real digits by `gmp`, the setting of docs/results/methods_mnist5k.md; 64 digits at a time in
onnxruntime, one thread, times of the processor, rounds in turn with the dense file.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from sparsify_fx.figures import Look, legend, panels, save, series, styles_of
from sparsify_fx.onnx_export import export
from sparsify_fx.sweeps.spread import spread
from sparsify_fx.train import load_config, train
from sparsify_fx.train.restore import load_trained
from sparsify_fx.training_cost.surroundings import surroundings

RESULT = Path("docs/results/landing.json")
FIGURE = Path("docs/figures/landing")
METHOD, BATCH, EPOCHS = "gmp", 64, 20
SPARSITIES = (0.0, 0.8, 0.9, 0.95, 0.98, 0.99)
SETTING = {
    "model": "lenet300",
    "init": "kaiming_normal",
    "batch_size": 256,
    "eval_every": 100,
    "checkpoint_every": 100,
    "device": "cpu",
    "compile": False,
}


def one(sparsity: float, seeds: int, runs: Path) -> dict[str, Any]:
    """Accuracies by seed, and milliseconds of the first seed's model."""
    method = METHOD if sparsity else "dense"
    # A dense net takes no sparsity but any: its own is zero.
    values = {**SETTING, "method": method, "epochs": EPOCHS, "sparsity": sparsity}
    results = [
        train(
            load_config("mnist5k-lenet5-bn", values={**values, "seed": seed}),
            runs_dir=runs,
            progress=False,
            tensorboard=False,
        )
        for seed in range(seeds)
    ]
    accuracies = [result.test_accuracy for result in results]
    return {
        "sparsity": sparsity,
        "method": method,
        "test_accuracy": accuracies,
        **times(results[0].path),
    }


def times(run: Path) -> dict[str, Any]:
    """Milliseconds of the processor of a batch: the dense file, and that for the sparse runtime."""
    trained = load_trained(run)
    inputs = trained.inputs[:BATCH]
    with tempfile.TemporaryDirectory() as folder:
        report = export(
            trained.model,
            Path(folder) / "model.onnx",
            inputs,
            target="sparse-ort",
            measure=True,
        )
    assert report.speed is not None
    return {
        "milliseconds_dense": 1000 * report.speed.cpu_latency_dense,
        "milliseconds": 1000 * report.speed.cpu_latency,
        "bytes_dense": report.bytes_dense,
        "bytes": report.bytes_file,
        "sparse_layers": list(report.sparse_layers),
    }


def draw(found: dict[str, Any], figure: Any) -> None:
    """Accuracy on the left, milliseconds on the right, over what is left of the weights."""
    left, right = panels(figure, 2, shape=0.8)
    rows = found["rows"]
    kept = [100 * (1 - row["sparsity"]) for row in rows]
    means = [spread(row["test_accuracy"]) for row in rows]
    style = styles_of([METHOD])[METHOD]
    left.errorbar(
        kept,
        [100 * mean.mean for mean in means],
        [100 * (mean.half or 0.0) for mean in means],
        capsize=2,
        label=f"{METHOD}, mean and 95 % interval of {means[0].n} seeds",
        **style,
    )
    left.set(ylabel="test accuracy, %")
    for index, (key, label) in enumerate(
        (
            ("milliseconds_dense", "onnxruntime, dense"),
            ("milliseconds", "sparse kernels"),
        )
    ):
        right.plot(kept, [row[key] for row in rows], label=label, **series(index))
    right.set(ylabel=f"ms for {found['batch']} digits", ylim=(0, None))
    for axes in (left, right):
        axes.set(xlabel="weights left, %", xscale="log")
        axes.set_xticks(kept, [f"{share:g}" for share in kept])
        axes.minorticks_off()
        axes.invert_xaxis()
        axes.grid(alpha=0.3)
    legend(figure, left, right, columns=3)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/landing"))
    parser.add_argument("--draw", action="store_true", help="only draw again")
    options = parser.parse_args()
    if not options.draw:
        torch.set_num_threads(1)
        rows = []
        for sparsity in SPARSITIES:
            rows.append(one(sparsity, options.seeds, options.runs))
            print(rows[-1], flush=True)
        content = {**surroundings(), "epochs": EPOCHS, "batch": BATCH, "rows": rows}
        RESULT.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    save(FIGURE, lambda figure: draw(found, figure), Look(("svg",), width=17.8))


if __name__ == "__main__":
    main()
