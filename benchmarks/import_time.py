"""What an import takes: docs/results/import_time.json.

    python benchmarks/import_time.py                # about a minute on one core

Processor time (user and system) of fresh processes, one of each kind in turn: medians, and all that was measured.
`before`: `import sparsify_fx` brought `sparsify_fx.onnx_export` with it, which is now left until it is asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

import torch

RESULT = Path(__file__).parents[1] / "docs" / "results" / "import_time.json"
KINDS = {
    "nothing": "",
    "torch": "import torch",
    "sparsify_fx": "import sparsify_fx",
    "sparsify_fx, before": "import sparsify_fx.onnx_export",
    "sparsify-fx --help": "from sparsify_fx.cli import app; app(['--help'])",
    "sparsify-fx --help, before": "import sparsify_fx.onnx_export; from sparsify_fx.cli import app; app(['--help'])",
}


def seconds(code: str) -> float:
    """Processor time of one process, from its start to its end."""
    before = os.times()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return (
        after.children_user
        - before.children_user
        + after.children_system
        - before.children_system
    )


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args()
    taken: dict[str, list[float]] = {name: [] for name in KINDS}
    for _ in range(chosen.rounds + 1):
        for name, code in KINDS.items():
            taken[name].append(round(seconds(code), 2))
    samples = {
        name: times[1:] for name, times in taken.items()
    }  # the first wrote .pyc files and read from the disk
    result = {
        "processor time, s": {
            name: statistics.median(times) for name, times in samples.items()
        },
        "samples, s": samples,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    text = json.dumps(result, indent=2)
    RESULT.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
