"""What profiles say, in the runtimes themselves: a file of each loads there and gives the outputs of the dense one.

Skipped where a runtime is not installed: `pip install openvino`, or `python -m benchmarks.runtimes`, which makes an
environment for each under `runs/runtimes`; `SPARSIFY_RUNTIMES` names another folder of such environments.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks import runtimes
from sparsify_fx.onnx_export import pack_onnx
from sparsify_fx.onnx_export.profiles import PROFILES

NAMES = [name for name in runtimes.PACKAGES if name != "onnxruntime"]
MODULES = {"mnn": "MNN", "iree": "iree.compiler"}


def interpreter(name: str) -> Path:
    """A Python that has the runtime; the test is skipped where none has."""
    folder = Path(os.environ.get("SPARSIFY_RUNTIMES", "runs/runtimes"))
    for python in (folder / name / "bin/python", Path(sys.executable)):
        code = f"import {MODULES.get(name, name)}"
        if (
            python.exists()
            and not subprocess.run([python, "-c", code], capture_output=True).returncode
        ):
            return python
    return pytest.skip(
        f"{name} is not installed ({', '.join(runtimes.PACKAGES[name])})"
    )


def test_every_profile_has_a_runner() -> None:
    ours = {"onnx", "onnxruntime", "sparse-ort", "web"}
    assert set(PROFILES) - ours == set(NAMES)


@pytest.mark.sweep
@pytest.mark.parametrize("name", NAMES)
def test_files_of_the_profile_give_the_outputs_of_the_dense_one(
    tmp_path: Path, name: str
) -> None:
    python, (model, given) = interpreter(name), runtimes.network()
    dense = tmp_path / "dense.onnx"
    onnx.save(model, dense)
    files = []
    for values in PROFILES[name].values:
        files.append(tmp_path / f"{values}.onnx")
        pack_onnx(dense, files[-1], target=name, values=values)
    expected, _ = runtimes.run_in(Path(sys.executable), "onnxruntime", files, given)
    found, _ = runtimes.run_in(python, name, files, given)
    for got, wanted in zip(found, expected, strict=True):
        assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()
