"""The library in other onnxruntime releases: `python tests/runtime/other_versions.py [1.18.0 1.22.1 ...]`.

For each release, by default from the first one that is supported to the newest, a virtual environment is made,
onnxruntime installed into it, and 1000 random layers are checked against its own dense ones. Needs a package index.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from sparsify_fx import runtime

CASES = Path(__file__).parent / "cases.py"
NEWEST = "newest"
VERSIONS = ("1.18.0", "1.19.2", "1.20.1", "1.21.1", "1.22.1", "1.23.2", NEWEST)


def check(version: str) -> None:
    """Raises CalledProcessError when the release cannot be installed or a layer differs."""
    package, numpy = (
        "onnxruntime" if version == NEWEST else f"onnxruntime=={version}",
        "numpy",
    )
    if version != NEWEST and tuple(map(int, version.split(".")[:2])) < (1, 19):
        numpy = "numpy<2"
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / "bin/python")
        subprocess.run(
            [python, "-m", "pip", "install", "-q", package, "onnx", numpy], check=True
        )
        # What is checked is the environment's onnxruntime, not one on the caller's path.
        clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        subprocess.run(
            [python, str(CASES), runtime.library(), "1000", "11"], check=True, env=clean
        )


if __name__ == "__main__":
    for each in sys.argv[1:] or VERSIONS:
        check(each)
