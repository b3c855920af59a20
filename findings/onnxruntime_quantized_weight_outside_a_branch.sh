#!/usr/bin/env bash
# onnxruntime 1.32.0: a valid model does not load when a matrix product inside a branch of If reads an int8 weight through
# DequantizeLinear and the weight is an initializer of the main graph, which a branch may read. An optimizer looks for the
# weight in the branch alone and fails instead of leaving the pattern as it is. With the weight inside the branch, with
# optimizations off, or with a convolution in place of the product, the same model loads. Tools that move the weights of
# branches to the main graph (to share, pack or deduplicate them) break quantized models by that.
# Seen with onnx 1.23.2.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q onnx==1.23.2 onnxruntime==1.32.0 numpy
cd "$folder"
"$folder/env/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

ort.set_default_logger_severity(4)
tensors = [
    numpy_helper.from_array(np.ones((64, 64), np.int8), "w"),
    numpy_helper.from_array(np.float32(0.1), "scale"),
    numpy_helper.from_array(np.int8(0), "zero"),
]


def branch(name, inside):
    value = helper.make_tensor_value_info(f"y_{name}", 1, ["n", 64])
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale", "zero"], [f"d_{name}"]),
        helper.make_node("MatMul", ["x", f"d_{name}"], [f"y_{name}"]),
    ]
    return helper.make_graph(nodes, name, [], [value], tensors if inside else [])


def load(inside, level=ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
    nodes = [
        helper.make_node(
            "If", ["c"], ["y"], then_branch=branch("then", inside), else_branch=branch("else", inside)
        )
    ]
    inputs = [helper.make_tensor_value_info("x", 1, ["n", 64]), helper.make_tensor_value_info("c", 9, [])]
    graph = helper.make_graph(
        nodes, "g", inputs, [helper.make_tensor_value_info("y", 1, ["n", 64])], [] if inside else tensors
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    try:
        ort.InferenceSession(model.SerializeToString(), options)
        return "loads"
    except Exception as error:
        return str(error).splitlines()[0][-60:]


seen = [load(True), load(False), load(False, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)]
print("weight in the branch, in the main graph, the same without optimizations:", seen)
assert seen[0] == seen[2] == "loads"
assert "Missing required" in seen[1], seen
PYTHON
