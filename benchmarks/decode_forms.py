"""Size, load time and memory of the decode forms: docs/results/decode_forms.md and .json.

    python -m benchmarks.decode_forms          # two minutes on one core
    python -m benchmarks.decode_forms --page   # only write the page from the results again

torchvision's resnet18, fresh weights, 90 % zeros by magnitude in every layer, in the form of the target `onnx`, which
all runtimes take, and in that of `onnxruntime`, with MaxUnpool and rounds. Each load is a process of its own; the least
of several counts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torchvision

import sparsify_fx
from benchmarks.training_cases import machine
from sparsify_fx.onnx_export import pack_onnx
from sparsify_fx.onnx_export.checks import probe
from sparsify_fx.training_cost.surroundings import surroundings

FOLDER = Path(__file__).parents[1] / "docs/results"
RAW = FOLDER / "decode_forms.json"
KINDS = (
    ("gap", "fp32"),
    ("gap", "fp32-packed"),
    ("gap", "int8"),
    ("bitmask", "fp32"),
    ("auto", "fp32"),
)
TARGETS = ("onnx", "onnxruntime")

PAGE = """# Decode forms, measured

torchvision's resnet18 at 90 % zeros in the form that all runtimes take (`onnx`) and in the one that onnxruntime loads
in the least memory (`onnxruntime`). Load is seconds of the processor, peak what the process takes at most, both in
onnxruntime, one thread.

{table}

Made by `python -m benchmarks.decode_forms`. {machine} Raw results: `docs/results/decode_forms.json`.
"""


def write_dense(file: Path) -> None:
    """The network with zeros, as a plain file."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18()
    pruned = sparsify_fx.apply(
        model, "magnitude", sparsity=0.9, schedule="at-init", allocation="uniform"
    )
    example = torch.randn(1, 3, 224, 224)
    sparsify_fx.export(
        sparsify_fx.merge(pruned).eval(), file, example, encoding="dense"
    )


def loaded(file: Path, rounds: int = 5) -> dict[str, float]:
    """The least of several loads, each in a process of its own."""
    command = [sys.executable, probe.__file__, "load", str(file)]
    found = []
    for _ in range(rounds):
        done = subprocess.run(command, capture_output=True, check=True)
        found.append(json.loads(done.stdout))
    return {
        "bytes": file.stat().st_size,
        "load_s": min(each["cpu_seconds"] for each in found),
        "peak_bytes": min(each["peak_bytes"] for each in found),
    }


def measure(folder: Path) -> dict[str, Any]:
    dense = folder / "dense.onnx"
    write_dense(dense)
    rows: dict[str, Any] = {"dense": loaded(dense)}
    for (encoding, values), target in itertools.product(KINDS, TARGETS):
        file = folder / "packed.onnx"
        pack_onnx(
            dense, file, encoding=encoding, values=values, target=target, verify=False
        )
        rows[f"{encoding} {values}, {target}"] = loaded(file)
        print(
            f"{encoding} {values}, {target}: {rows[f'{encoding} {values}, {target}']}"
        )
    return {"surroundings": surroundings(), "rows": rows}


def page(results: dict[str, Any]) -> str:
    lines = ["| file | bytes | load, s | peak, MB |", "|---|---|---|---|"]
    for name, row in results["rows"].items():
        lines.append(
            f"| {name} | {row['bytes']:,} | {row['load_s']:.2f} | {row['peak_bytes'] / 1e6:.0f} |"
        )
    about = machine(results["surroundings"])
    return PAGE.format(table="\n".join(lines), machine=about)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", action="store_true")
    if not parser.parse_args().page:
        with tempfile.TemporaryDirectory() as folder:
            results = measure(Path(folder))
        RAW.write_text(json.dumps(results, indent=1) + "\n")
    (FOLDER / "decode_forms.md").write_text(page(json.loads(RAW.read_text())))


if __name__ == "__main__":
    main()
