"""Files in onnx's own reference implementation, and in an older onnxruntime where one is at hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from sparsify_fx.onnx_export.files.tensors import TensorReader
from sparsify_fx.onnx_export.storage.codecs import ENCODINGS, VALUES
from sparsify_fx.onnx_export.storage.codecs.decoding import Decoder
from sparsify_fx.onnx_export.storage.encodings import encode_initializers
from sparsify_fx.onnx_export.storage.options import Wanted
from sparsify_fx.onnx_export.storage.unpacking import unpacked
from tests.onnx_export.arrays import matmul_with, random_tensor

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("functions", [False, True])
@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if name != "coo"])
def test_the_reference_evaluator_gives_the_same(
    encoding: str, values: str, functions: bool
) -> None:
    model = matmul_with(random_tensor((30, 90), 0.15, 0, 1))
    made = encode_initializers(model, Wanted(encoding, values, functions)).model
    weight = Decoder(made).array("w")
    x = np.random.default_rng(0).standard_normal((2, 30)).astype(np.float32)
    (got,) = ReferenceEvaluator(
        onnx.ModelProto.FromString(made.SerializeToString())
    ).run(None, {"x": x})
    np.testing.assert_array_equal(got, x @ weight)


def test_sparse_tensors_are_beyond_the_reference_evaluator() -> None:
    """It fails on the smallest sparse initializer and on a constant node with one; onnxruntime loads both."""
    values = helper.make_tensor("w", TensorProto.FLOAT, [1], [2.0])
    sparse = helper.make_sparse_tensor(
        values, helper.make_tensor("i", TensorProto.INT64, [1], [3]), [30, 90]
    )
    as_initializer, as_constant = (
        matmul_with(np.ones((30, 90), np.float32)) for _ in range(2)
    )
    for model in (as_initializer, as_constant):
        del model.graph.initializer[:]
    as_initializer.graph.sparse_initializer.append(sparse)
    as_constant.graph.node.insert(
        0, helper.make_node("Constant", [], ["w"], sparse_value=sparse)
    )
    x = np.ones((2, 30), np.float32)
    for model in (as_initializer, as_constant):
        onnx.checker.check_model(model)
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        assert session.run(None, {"x": x})[0].sum() == 4
        with pytest.raises((ValueError, AttributeError, TypeError)):
            ReferenceEvaluator(model).run(None, {"x": x})


def test_an_unpacked_coo_file_runs_in_the_reference_evaluator() -> None:
    weight = random_tensor((30, 90), 0.15, 0, 1)
    dense = unpacked(
        encode_initializers(matmul_with(weight), Wanted("coo")).model, TensorReader()
    )
    x = np.random.default_rng(0).standard_normal((2, 30)).astype(np.float32)
    (got,) = ReferenceEvaluator(dense).run(None, {"x": x})
    np.testing.assert_array_equal(got, x @ weight)


@pytest.mark.slow
@pytest.mark.sweep
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
