"""Files in onnx's own reference implementation, and in an older onnxruntime where one is at hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from sparsify_fx.onnx_export.codecs import ENCODINGS, VALUES
from sparsify_fx.onnx_export.codecs.decoding import Decoder
from sparsify_fx.onnx_export.encodings import Wanted, encode_initializers
from sparsify_fx.onnx_export.tensors import TensorReader
from sparsify_fx.onnx_export.unpacking import unpacked
from tests.onnx_export.arrays import matmul_with, random_tensor

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("functions", [False, True])
@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if name != "coo"])
def test_the_reference_evaluator_gives_the_same(encoding: str, values: str, functions: bool) -> None:
    model = matmul_with(random_tensor((30, 90), 0.15, 0, 1))
    made = encode_initializers(model, Wanted(encoding, values, functions)).model
    weight = Decoder(made).array("w")
    x = np.random.default_rng(0).standard_normal((2, 30)).astype(np.float32)
    (got,) = ReferenceEvaluator(onnx.ModelProto.FromString(made.SerializeToString())).run(None, {"x": x})
    np.testing.assert_array_equal(got, x @ weight)


def test_coo_is_beyond_the_reference_evaluator_but_not_beyond_its_decoder() -> None:
    """onnx's evaluator takes a sparse initializer for a plain one and fails, with the smallest file too."""
    weight = random_tensor((30, 90), 0.15, 0, 1)
    made = encode_initializers(matmul_with(weight), Wanted("coo")).model
    by_hand = matmul_with(weight)
    del by_hand.graph.initializer[:]
    values = helper.make_tensor("w", TensorProto.FLOAT, [1], [2.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [3])
    by_hand.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [30, 90]))
    for model in (made, by_hand):
        with pytest.raises((ValueError, AttributeError)):
            ReferenceEvaluator(model)
    dense = unpacked(made, TensorReader())
    x = np.random.default_rng(0).standard_normal((2, 30)).astype(np.float32)
    (got,) = ReferenceEvaluator(dense).run(None, {"x": x})
    np.testing.assert_array_equal(got, x @ weight)


def test_another_interpreter_loads_and_folds_every_file() -> None:
    """With this one: the same command checks an older onnxruntime, given the interpreter that has it."""
    done = subprocess.run(
        [sys.executable, "benchmarks/old_runtime.py", sys.executable],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all equal, all folded" in done.stdout
