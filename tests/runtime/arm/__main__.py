"""The kernels on ARM: `python -m tests.runtime.arm [--layers N] [--products N] [--folder DIR]`.

Builds the library with a cross compiler, and runs under qemu what it can compute: random layers of every operator
against stock onnxruntime for ARM, as `tests/runtime/cases.py` does here; sparse-ort files that this processor writes
and computes too; the kernels of training. Once with NEON kernels and once with portable ones. Correctness alone: how
long it takes says nothing of a real processor.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np

from tests.runtime.arm.files import worst_difference, write_files
from tests.runtime.arm.products import write_products
from tests.runtime.arm.sysroot import Arm, arm_in

ISAS = "neon", "portable"
HERE = Path(__file__).parent
OPERATORS = {
    "SparseConv", "SparseConvDepthwise", "SparseConvPool", "SparseConvSum", "SparseMatMul", "MaxPool", "PadPlanes",
    "UnpadPlanes", "HalvePlanes", "Attention",
}  # fmt: skip
"""Those of docs/runtime.md."""


def check(arm: Arm, layers: int, products: int) -> None:
    """Everything, on each instruction set. Raises AssertionError or CalledProcessError at the first difference."""
    work = arm.folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    names, operators = write_files(work)
    assert operators == OPERATORS, operators ^ OPERATORS
    write_products(work / "products", products)
    library, places = str(arm.library), [str(work / name) for name in names]
    for isa in ISAS:
        _say(isa, _instruction_set(arm, isa))
        cases = str(HERE.parent / "cases.py")
        _say(isa, arm.run(cases, library, str(layers), "3", SPARSIFY_FX_ISA=isa))
        there = str(HERE / "there.py")
        _say(isa, arm.run(there, library, *places, SPARSIFY_FX_ISA=isa))
        difference = worst_difference(work, names, _arrays)
        assert difference < 1e-5, difference
        _say(isa, f"{len(names)} files: at most {difference:.2g} from the outputs here")
        products_file = str(HERE / "products.py")
        done = arm.run(
            products_file, library, str(work / "products"), SPARSIFY_FX_ISA=isa
        )
        _say(isa, done)


def _instruction_set(arm: Arm, isa: str) -> str:
    """What the library says it runs, which must be what was asked for; without being asked, NEON."""
    code = (
        "import ctypes, sys; f = ctypes.CDLL(sys.argv[1]).sparsify_fx_instruction_set; "
        "f.restype = ctypes.c_char_p; print(f().decode())"
    )
    names = [
        arm.run("-c", code, str(arm.library), SPARSIFY_FX_ISA=each).strip()
        for each in (isa, "")
    ]
    assert names == [isa, ISAS[0]], names
    return "runs"


def _arrays(file: Path) -> list[np.ndarray]:
    return list(np.load(file).values())


def _say(isa: str, text: str) -> None:
    for line in text.strip().splitlines():
        print(f"{isa}: {line}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=1000)
    parser.add_argument("--products", type=int, default=300)
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "sparsify_fx-arm"
    )
    given = parser.parse_args()
    given.folder.mkdir(exist_ok=True)
    check(arm_in(given.folder), given.layers, given.products)


if __name__ == "__main__":
    main()
