"""Weights whose sparse form would have a name that something else in the model has."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from sparsify_fx import runtime
from tests.onnx_export.arrays import matmul_with, random_tensor


def named(old: str, new: str) -> onnx.ModelProto:
    """y = x @ w with the name of x or y changed."""
    model = matmul_with(random_tensor((40, 40), 0.1, 0, 0))
    for ends in (model.graph.input, model.graph.output):
        for item in ends:
            item.name = new if item.name == old else item.name
    node = model.graph.node[0]
    node.input[:] = [new if name == old else name for name in node.input]
    node.output[:] = [new if name == old else name for name in node.output]
    return model


@pytest.mark.parametrize("name", ["w.values", "w.gaps"])
@pytest.mark.parametrize("old", ["x", "y"])
def test_values_of_nodes_and_inputs_keep_their_names(old: str, name: str) -> None:
    model = named(old, name)
    sparse, weights = runtime.to_sparse(model, lambda layer: True)
    assert (weights, sparse.graph.node[0].op_type) == ([], "MatMul")
    onnx.checker.check_model(sparse)


def test_names_inside_branches_count_too() -> None:
    model = matmul_with(random_tensor((40, 40), 0.1, 0, 0))
    y = helper.make_tensor_value_info("w.gaps", TensorProto.FLOAT, ["n", 40])
    inner = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["w.gaps"])], "i", [], [y]
    )
    given = helper.make_tensor_value_info("given", TensorProto.BOOL, [])
    model.graph.input.append(given)
    model.graph.node.append(
        helper.make_node("If", ["given"], ["z"], then_branch=inner, else_branch=inner)
    )
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 40])
    model.graph.output.append(z)
    onnx.checker.check_model(model)
    assert runtime.to_sparse(model, lambda layer: True)[1] == []
    # Under another name the same weight becomes sparse.
    inner.node[0].output[0] = inner.output[0].name = "other"
    for place in model.graph.node[-1].attribute:
        place.g.CopyFrom(inner)
    assert runtime.to_sparse(model, lambda layer: True)[1] == ["w"]
