"""The library in other onnxruntime releases: `python tests/runtime/other_versions.py 1.18.0 1.20.1 ...`.

For each release a virtual environment is made, onnxruntime installed into it, and 1000 random layers are checked.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from sparsify_fx import runtime

CASES = Path(__file__).parent / "cases.py"


def check(version: str) -> None:
    """Raises CalledProcessError when the release cannot be installed or a layer differs."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / "bin/python")
        numpy = "numpy<2" if tuple(map(int, version.split(".")[:2])) < (1, 19) else "numpy"
        subprocess.run([python, "-m", "pip", "install", "-q", f"onnxruntime=={version}", "onnx", numpy], check=True)
        subprocess.run([python, str(CASES), runtime.library(), "1000", "11"], check=True)


if __name__ == "__main__":
    for each in sys.argv[1:]:
        check(each)
