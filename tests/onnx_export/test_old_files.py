"""Files of earlier versions stay readable: forms that are no longer the default, or not written at all any more.

`old_files/` was written by version 0.1 and commit 4e1ad8e: MaxUnpool and Scan, values decoded in float32.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest

from sparsify_fx.onnx_export import inspect_file, pack_onnx, unpack_onnx
from tests.onnx_export.arrays import run

FILES = Path(__file__).parent / "old_files"

DIGESTS = {
    "bitmask_int8": "320250486315cc8e",
    "bitmask_packed_rounds": "3cb18092452f39dd",
    "coo_int8": "efa808682f11260b",
    "dense_int8": "f6af65ca6fe18212",
    "gap_fp16": "563d6995c4bc6f94",
    "gap_fp32_functions": "c1c516551cea4cd9",
    "gap_fp32_rounds": "bab2e84ef4ae0c82",
    "gap_int8": "dfd7513a06516c3d",
    "gap_packed": "c1c516551cea4cd9",
    "patches": "b2ae20a5283a9913",
}
"""The start of the SHA-256 of all weights by name, as the version that wrote a file unpacked it."""


def weights(path: Path) -> str:
    """The digest of the weights of a file of plain ones."""
    tensors = sorted(onnx.load(path).graph.initializer, key=lambda each: each.name)
    return hashlib.sha256(b"".join(each.raw_data for each in tensors)).hexdigest()[:16]


def test_every_old_file_is_tested() -> None:
    assert {file.stem for file in FILES.iterdir()} == set(DIGESTS)


@pytest.mark.parametrize("name", DIGESTS)
def test_old_files_are_unpacked_inspected_run_and_packed_again(
    tmp_path: Path, name: str
) -> None:
    old = FILES / f"{name}.onnx"
    unpack_onnx(old, tmp_path / "plain.onnx")
    assert weights(tmp_path / "plain.onnx") == DIGESTS[name]
    assert inspect_file(old).sparsity == inspect_file(tmp_path / "plain.onnx").sparsity
    side = onnx.load(old).graph.input[0].type.tensor_type.shape.dim[1].dim_value
    feed = {"x0": np.ones((2, side), np.float32)}
    expected = run(tmp_path / "plain.onnx", feed)[0]
    assert run(old, feed)[0].tobytes() == expected.tobytes()
    # Packed anew it has today's form, and the same weights.
    pack_onnx(old, tmp_path / "new.onnx", encoding="gap")
    kinds = {node.op_type for node in onnx.load(tmp_path / "new.onnx").graph.node}
    assert not kinds & {"MaxUnpool", "Scan"}
    unpack_onnx(tmp_path / "new.onnx", tmp_path / "again.onnx")
    assert weights(tmp_path / "again.onnx") == DIGESTS[name]
