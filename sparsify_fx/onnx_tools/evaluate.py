"""Run one node on constants, in onnxruntime, as it would run in the user's graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

Array = NDArray[Any]


def evaluate(
    node: onnx.NodeProto, model: onnx.ModelProto, inputs: dict[str, Array]
) -> list[Array] | None:
    """The outputs of `node` on `inputs`, by name; None when onnxruntime refuses.

    `model` gives the operator sets. Outputs that the node leaves out are left out here.

    >>> node = onnx.helper.make_node("Relu", ["x"], ["y"])
    >>> model = onnx.ModelProto(ir_version=10, opset_import=[onnx.helper.make_opsetid("", 18)])
    >>> evaluate(node, model, {"x": np.float32([-1, 2])})
    [array([0., 2.], dtype=float32)]
    """
    # A node may read one value twice; a graph has an input of one name once.
    given = [name for name in dict.fromkeys(node.input) if name]
    values = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(inputs[name].dtype), None
        )
        for name in given
    ]
    # Without types: onnxruntime infers them, which this needs not know for every operator.
    results = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    single = onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import
    )
    single.graph.CopyFrom(onnx.helper.make_graph([node], "one", values, results))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # One node, mostly on a few numbers: starting threads would take longer than the work.
    options.intra_op_num_threads = 1
    # As written: an optimizer that folds it itself may round otherwise.
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    )
    try:
        session = onnxruntime.InferenceSession(
            single.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        outputs = session.run(None, {name: inputs[name] for name in given})
    except (
        Exception
    ):  # onnxruntime raises a dozen classes; whatever it refuses stays in the graph
        return None
    return (
        [value for value in outputs if isinstance(value, np.ndarray)]
        if len(outputs) == len(results)
        else None
    )
