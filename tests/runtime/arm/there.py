"""Sparse files in stock onnxruntime on ARM: `there.py LIBRARY FOLDER...`, with numpy and onnxruntime alone.

Each folder has what `files.py` wrote. The outputs go beside it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime

TOLERANCE = 1e-5


def outputs(file: Path, library: str | None, threads: int) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if library is not None:
        options.register_custom_ops_library(library)
    session = onnxruntime.InferenceSession(
        str(file), options, providers=["CPUExecutionProvider"]
    )
    found = session.run(None, dict(np.load(file.parent / "inputs.npz")))
    return [np.asarray(each) for each in found]


def check(folder: Path, library: str) -> float:
    """The largest relative difference to stock onnxruntime. Raises AssertionError above the tolerance."""
    expected = outputs(folder / "dense.onnx", None, 1)
    got = outputs(folder / "sparse.onnx", library, 1)
    again = outputs(folder / "sparse.onnx", library, 2)
    np.savez(folder / "arm.npz", *got)
    worst = 0.0
    for a, b, c in zip(expected, got, again, strict=True):
        assert b.tobytes() == c.tobytes(), f"{folder.name}: other bits with two threads"
        worst = max(worst, float(np.abs(a - b).max() / np.abs(a).max()))
    assert worst < TOLERANCE, f"{folder.name}: {worst}"
    return worst


if __name__ == "__main__":
    for place in map(Path, sys.argv[2:]):
        print(f"{place.name}: {check(place, sys.argv[1]):.2g}")
