"""Do packed files load and fold in another onnxruntime? Takes the Python interpreter that has it.

    python -m venv old && old/bin/pip install "onnxruntime==1.18.*" "numpy<2"
    python benchmarks/old_runtime.py old/bin/python

Writes a small network in every encoding with every kind of values, rebuilt in one round and in several, loads all files
there at every level of optimization, and compares outputs with those of the dense file in the same runtime: to the bit
where weights are folded, to 1e-6 of the largest output where nothing is. Nodes of the optimized graphs are counted too.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

LEVELS = (
    "ORT_DISABLE_ALL",
    "ORT_ENABLE_BASIC",
    "ORT_ENABLE_EXTENDED",
    "ORT_ENABLE_ALL",
)


def outputs(file: str, level: str, save: str) -> np.ndarray:
    """The output of one file in this interpreter's onnxruntime; the optimized graph is saved."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = getattr(
        onnxruntime.GraphOptimizationLevel, level
    )
    options.optimized_model_filepath = save
    session = onnxruntime.InferenceSession(
        file, options, providers=["CPUExecutionProvider"]
    )
    feed = {
        session.get_inputs()[0].name: np.linspace(
            -1, 1, 2 * 3 * 32 * 32, dtype=np.float32
        ).reshape(2, 3, 32, 32)
    }
    return np.asarray(session.run(None, feed)[0])


def check(folder: Path) -> None:
    """The part for the other interpreter: numpy and onnxruntime only. Prints what differs as JSON."""
    import onnxruntime

    found = []
    for packed in sorted(folder.glob("*.packed.onnx")):
        dense = packed.with_name(packed.name.replace(".packed.", ".dense."))
        for level in LEVELS:
            saves = [
                str(file.with_suffix(f".{level}.optimized")) for file in (dense, packed)
            ]
            a, b = (
                outputs(str(dense), level, saves[0]),
                outputs(str(packed), level, saves[1]),
            )
            difference = float(np.abs(a - b).max() / np.abs(a).max())
            found.append(
                {
                    "file": packed.name,
                    "level": level,
                    "difference": difference,
                    "graphs": saves,
                }
            )
    print(json.dumps({"onnxruntime": onnxruntime.__version__, "cases": found}))


def write(folder: Path) -> None:
    """A network with convolutions, a depthwise one and linear layers, pruned to 90 %, in all forms."""
    import torch
    from torch import nn

    from sparsify_fx import export, pack_onnx, unpack_onnx
    from sparsify_fx.onnx_export.storage.codecs import ENCODINGS, VALUES, rounds

    torch.manual_seed(0)
    body = (
        nn.Conv2d(3, 64, 3),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, groups=64),
        nn.Conv2d(64, 96, 1),
        nn.ReLU(),
    )
    model = nn.Sequential(
        *body,
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(1536, 200),
        nn.ReLU(),
        nn.Linear(200, 9),
    )
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(torch.rand_like(weight) < 0.1)
    dense = folder / "all.onnx"
    export(model.eval(), dense, torch.randn(1, 3, 32, 32), encoding="dense")
    kept = rounds.ENOUGH
    for encoding, values, functions, enough in itertools.product(
        ENCODINGS, VALUES, (False, True), (kept, 0)
    ):
        rounds.ENOUGH = enough  # 0: as large models are rebuilt
        stem = (
            f"{encoding}-{values}"
            + ("-functions" if functions else "")
            + ("" if enough else "-rounds")
        )
        packed = folder / f"{stem}.packed.onnx"
        pack_onnx(
            dense,
            packed,
            encoding=encoding,
            values=values,
            functions=functions,
            target="onnx" if enough else "onnxruntime",
        )
        unpack_onnx(
            packed, folder / f"{stem}.dense.onnx"
        )  # of lossy values: what they were rounded to
    rounds.ENOUGH = kept
    dense.unlink()


def main(python: str) -> int:
    """Write, let the other interpreter check, and print one line for each file; returns the number of failures."""
    import onnx

    failures = 0
    with tempfile.TemporaryDirectory() as name:
        write(Path(name))
        done = subprocess.run(
            [python, __file__, "--check", name],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            print(done.stderr.strip()[-2000:], file=sys.stderr)
            return 1
        answer = json.loads(done.stdout)
        print(f"onnxruntime {answer['onnxruntime']}, {len(answer['cases'])} cases")
        for case in answer["cases"]:
            nodes = [len(onnx.load(graph).graph.node) for graph in case["graphs"]]
            folded = case["level"] != "ORT_DISABLE_ALL"
            good = (
                (case["difference"] == 0 and nodes[0] == nodes[1])
                if folded
                else case["difference"] <= 1e-6
            )
            failures += not good
            if not good:
                print(
                    f"{case['file']} at {case['level']}: difference {case['difference']:.1e}, nodes {nodes}"
                )
    print("all equal, all folded" if not failures else f"{failures} cases differ")
    return failures


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--check":
        check(Path(sys.argv[2]))
    elif len(sys.argv) == 2 and not sys.argv[1].startswith("-"):
        sys.exit(main(sys.argv[1]) != 0)
    else:
        print(__doc__)
        sys.exit(2)
