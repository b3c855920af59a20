"""What `import sparsify_fx` and `sparsify-fx --help` do without, and that nobody who uses the package notices."""

from __future__ import annotations

import subprocess
import sys

import pytest

import sparsify_fx
from tests.fresh import run_fresh

HEAVY = {
    "matplotlib",
    "mlxtend",
    "networkx",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "pandas",
    "scipy",
    "sklearn",
}
HEAVY |= {"sympy", "timm", "torchvision"}
HELP = """
import runpy
sys.argv = ["sparsify-fx", "--help"]
try:
    runpy.run_module("sparsify_fx", run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert not end.code, end.code
"""


def fresh(code: str) -> list[str]:
    """The lines that a process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("code", ["import sparsify_fx", HELP], ids=["import", "help"])
def test_heavy_packages_are_left_alone(code: str) -> None:
    """All but what torch itself imports."""
    *printed, found = fresh(
        f"import sys, torch\nbefore = set(sys.modules)\n{code}\n"
        f"print(*sorted({HEAVY!r} & (set(sys.modules) - before)), 'sparsify_fx' in sys.modules)"
    )
    assert found == "True"
    assert code != HELP or any("Usage" in line for line in printed)


@pytest.mark.cross_section(
    "from sparsify_fx import export; export.__name__",
    "use2",
    "import sparsify_fx; sparsify_fx.passes.onnx_graph.optimize",
)
@pytest.mark.slow
@pytest.mark.parametrize(
    "use",
    [
        "from sparsify_fx import export; export.__name__",
        "import sparsify_fx; sparsify_fx.ExportReport.__name__",
        "from sparsify_fx import *; pack_onnx, unpack_onnx, inspect_file, parameter_groups(None or Linear(2, 2))",
        "import sparsify_fx; assert sparsify_fx.onnx_export.pack_onnx is sparsify_fx.pack_onnx",
        "import sparsify_fx; sparsify_fx.errors.SparsifyError, sparsify_fx.runtime.to_sparse, sparsify_fx.zoo",
        "import sparsify_fx; sparsify_fx.passes.onnx_graph.optimize",
        "from sparsify_fx.passes import onnx_graph; onnx_graph.optimize",
        "import sparsify_fx.onnx_export; assert callable(sparsify_fx.parameter_groups)",
    ],
)
def test_what_comes_later_is_found_in_a_fresh_process(use: str) -> None:
    done = run_fresh(f"from torch.nn import Linear\n{use}")
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_listed_and_found() -> None:
    assert set(sparsify_fx.__all__) <= set(dir(sparsify_fx))
    for name in sparsify_fx.__all__:
        assert getattr(sparsify_fx, name).__doc__


@pytest.mark.parametrize("name", ["exprot", "_nothing", "__wrapped__"])
def test_a_misspelled_name_is_an_attribute_error(name: str) -> None:
    with pytest.raises(
        AttributeError, match=f"module 'sparsify_fx' has no attribute '{name}'"
    ):
        getattr(sparsify_fx, name)
    with pytest.raises(
        AttributeError, match=f"module 'sparsify_fx.passes' has no attribute '{name}'"
    ):
        getattr(sparsify_fx.passes, name)
