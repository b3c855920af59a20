"""Multiply-adds of the weights of a file, counted for one sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsify_fx.onnx_export import inspect_file


@pytest.mark.parametrize("ir_version", [3, 8])
@pytest.mark.parametrize("batch", ["N", 4])
def test_weights_that_are_inputs_as_well_count(
    tmp_path: Path, ir_version: int, batch: int | str
) -> None:
    """Files of onnx before 1.5 list every initializer as an input."""
    weights = {"w": (8, 3, 3, 3), "b": (8,), "rows": (2,), "m": (288, 10)}
    arrays = {name: np.ones(shape, np.float32) for name, shape in weights.items()}
    arrays["rows"] = np.array([-1, 288], np.int64)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"]),
        helper.make_node("Reshape", ["c", "rows"], ["r"]),
        helper.make_node("MatMul", ["r", "m"], ["y"]),
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])]
    inputs += [
        helper.make_tensor_value_info(t.name, t.data_type, list(t.dims))
        for t in tensors
    ]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 10])
    graph = helper.make_graph(nodes, "old", inputs, [y], tensors)
    onnx.save(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 8)], ir_version=ir_version
        ),
        tmp_path / "a.onnx",
    )
    found = {row.name: row.macs for row in inspect_file(tmp_path / "a.onnx").layers}
    assert found == {"w": 36 * 8 * 27, "b": None, "rows": None, "m": 2880}
