"""A whole training on sparse kernels beside the same one on PyTorch's dense ones: docs/results/cifar_kernels.json.

    python unpack_cifar10.py cifar10 --format npz                    # or any folder with train.npz and test.npz
    python benchmarks/cifar_kernels.py --data cifar10                # about an hour on one core
    python benchmarks/cifar_kernels.py --data cifar10 --epochs 40 --seeds 0 1 2

ResNet-20 with Sign-In at 95 % zeros, on all images, one thread, batches of 128. Both trainings have the same seed, and
so the same mask, initial weights and order of images; only `kernels` differs. Times are of the whole command by the
processor, evaluation included. Runs that the file of results has already are made again and replaced; others stay.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sparsify_fx.training_cost.surroundings import surroundings

OUT = Path("docs/results/cifar_kernels.json")


def settings(options: argparse.Namespace, seed: int, kernels: str) -> list[str]:
    """What differs from the recipe `cifar10-resnet20-signin`: one core instead of a GPU, and fewer epochs."""
    found = {
        "data": f"npz:{options.data.resolve()}",
        "batch_size": 128,
        "epochs": options.epochs,
        "seed": seed,
        "kernels": kernels,
        "device": "cpu",
        "compile": "false",
        "optimizer.lr": 0.1,
        "learning_rate.warmup": max(1, options.epochs // 5),
        "axes.actions.until": options.epochs // 2,
    }
    return [
        part for key, value in found.items() for part in ("--set", f"{key}={value}")
    ]


def trained(options: argparse.Namespace, seed: int, kernels: str, folder: str) -> dict[str, Any]:  # fmt: skip
    """One run: its accuracies and times."""
    command = [sys.executable, "-m", "sparsify_fx", "train", "cifar10-resnet20-signin"]
    command += ["--sparsity", str(options.sparsity), "--runs", folder]
    command += settings(options, seed, kernels)
    before, began = os.times(), time.perf_counter()
    subprocess.run(
        command,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    after = os.times()
    (path,) = Path(folder).glob("*/result.json")
    result = json.loads(path.read_text())
    # Folders of this machine say nothing elsewhere.
    del result["folder"]
    result["provenance"]["data"] = f"npz:{options.data.name}"
    return {
        "kernels": kernels,
        "seed": seed,
        "processor_seconds": after.children_user
        + after.children_system
        - before.children_user
        - before.children_system,
        "seconds": time.perf_counter() - began,
        "result": result,
    }


def note(options: argparse.Namespace, row: dict[str, Any]) -> None:
    """Put one run among those that the file has: another process may have written it meanwhile."""
    known = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    rows = {(each["seed"], each["kernels"]): each for each in [*known, row]}
    content = {
        "surroundings": surroundings(),
        "epochs": options.epochs,
        "sparsity": options.sparsity,
        "rows": list(rows.values()),
    }
    options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--sparsity", type=float, default=0.95)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--kernels", nargs="+", default=["always", "dense"])
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    for seed in options.seeds:
        for kernels in options.kernels:
            with tempfile.TemporaryDirectory() as folder:
                row = trained(options, seed, kernels, folder)
            note(options, row)
            print(
                f"{kernels}, seed {seed}: {row['processor_seconds'] / 60:.1f} min of processor time, "
                f"{100 * row['result']['test_accuracy']:.2f} % accurate",
                flush=True,
            )


if __name__ == "__main__":
    main()
