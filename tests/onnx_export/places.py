"""Small models whose pruned weights lie in every place that ONNX has for constants."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.onnx_export.arrays import random_tensor

WIDTH = 64


def pruned(seed: int) -> NDArray[np.float32]:
    return np.asarray(random_tensor((WIDTH, WIDTH), 0.1, 0, seed))


def tensor(array: NDArray[np.generic], name: str = "") -> TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def constant(array: NDArray[np.generic], name: str, node: str = "") -> onnx.NodeProto:
    return helper.make_node(
        "Constant", [], [name], name=node, value=tensor(array, "held")
    )


def value(
    name: str, *shape: int | str, kind: int = TensorProto.FLOAT
) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model_of(
    nodes: list[onnx.NodeProto],
    weights: list[TensorProto] | None = None,
    *,
    inputs: list[onnx.ValueInfoProto] | None = None,
    functions: list[onnx.FunctionProto] | None = None,
    ir_version: int = 8,
    opset: int = 17,
) -> onnx.ModelProto:
    """A model from x [n, 64] to y [n, 64]."""
    given = [value("x", "n", WIDTH), *(inputs or [])]
    graph = helper.make_graph(
        nodes, "g", given, [value("y", "n", WIDTH)], weights or []
    )
    domains = {"": opset} | {function.domain: 1 for function in functions or []}
    domains |= {node.domain: 1 for node in nodes if node.domain}
    imports = [
        helper.make_opsetid(domain, version) for domain, version in domains.items()
    ]
    made = helper.make_model(
        graph, ir_version=ir_version, opset_imports=imports, functions=functions or []
    )
    made.producer_name, made.producer_version, made.doc_string = (
        "other",
        "3.1",
        "a model of another writer",
    )
    return made


def in_nodes() -> onnx.ModelProto:
    nodes = [
        constant(pruned(1), "w", "first"),
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        constant(np.float32(0.5), "half"),
        constant(pruned(2), "v"),
        helper.make_node("Mul", ["a", "half"], ["b"]),
        helper.make_node("MatMul", ["b", "v"], ["y"]),
    ]
    return model_of(nodes)


def beside_dense_ones() -> onnx.ModelProto:
    """Of three constant nodes the one in the middle has no zeros and stays where it is."""
    full = random_tensor((WIDTH, WIDTH), 1.0, 0, 5)
    nodes = [
        constant(pruned(1), "w"),
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        constant(full, "full"),
        helper.make_node("MatMul", ["a", "full"], ["b"]),
        constant(pruned(2), "v"),
        helper.make_node("MatMul", ["b", "v"], ["y"]),
    ]
    return model_of(nodes)


def branch(seed: int, *, node: bool) -> onnx.GraphProto:
    """z = x @ w with a `w` of its own, as an initializer or in a node."""
    weights = [] if node else [tensor(pruned(seed), "w")]
    nodes = [constant(pruned(seed), "w")] if node else []
    nodes.append(helper.make_node("MatMul", ["x", "w"], [f"z{seed}"]))
    return helper.make_graph(
        nodes, f"branch{seed}", [], [value(f"z{seed}", "n", WIDTH)], weights
    )


def in_branches() -> onnx.ModelProto:
    """Both branches of an If name their weight `w`, and a third one stands in a branch of a branch."""
    inner = helper.make_node(
        "If",
        ["yes"],
        ["z3"],
        then_branch=branch(4, node=False),
        else_branch=branch(5, node=True),
    )
    nested = helper.make_graph([inner], "nested", [], [value("z3", "n", WIDTH)])
    nodes = [
        constant(np.array(True), "yes"),
        helper.make_node(
            "If",
            ["yes"],
            ["a"],
            then_branch=branch(1, node=True),
            else_branch=branch(2, node=False),
        ),
        helper.make_node(
            "If", ["yes"], ["b"], then_branch=nested, else_branch=branch(6, node=True)
        ),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    return model_of(nodes)


def in_a_loop() -> onnx.ModelProto:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["goes"]),
            helper.make_node("MatMul", ["state", "w"], ["next"]),
        ],
        "body",
        [
            value("i", kind=TensorProto.INT64),
            value("go", kind=TensorProto.BOOL),
            value("state", "n", WIDTH),
        ],
        [value("goes", kind=TensorProto.BOOL), value("next", "n", WIDTH)],
        [tensor(pruned(1), "w")],
    )
    nodes = [helper.make_node("Loop", ["times", "yes", "x"], ["y"], body=body)]
    return model_of(
        nodes, [tensor(np.array(3), "times"), tensor(np.array(True), "yes")]
    )


def in_a_scan() -> onnx.ModelProto:
    body = helper.make_graph(
        [constant(pruned(1), "w"), helper.make_node("MatMul", ["row", "w"], ["out"])],
        "body", [value("row", WIDTH)], [value("out", WIDTH)],
    )  # fmt: skip
    return model_of(
        [helper.make_node("Scan", ["x"], ["y"], body=body, num_scan_inputs=1)]
    )


def in_functions() -> onnx.ModelProto:
    """A function that is called twice, and by another one; both have weights of their own under the same name."""
    imports = [helper.make_opsetid("", 17)]
    layer = helper.make_function(
        "mine", "layer", ["x", "scale"], ["y"],
        [
            constant(pruned(1), "w"),
            helper.make_node("MatMul", ["x", "w"], ["y"]),
        ],
        imports,
    )  # fmt: skip
    block = helper.make_function(
        "mine", "block", ["x"], ["y"],
        [
            constant(pruned(2), "w"),
            helper.make_node("layer", ["x"], ["a"], domain="mine"),
            helper.make_node("MatMul", ["a", "w"], ["y"]),
        ],
        [*imports, helper.make_opsetid("mine", 1)],
    )  # fmt: skip
    nodes = [
        helper.make_node("layer", ["x"], ["a"], domain="mine"),
        helper.make_node("block", ["a"], ["b"], domain="mine"),
        helper.make_node("layer", ["b", "b"], ["y"], domain="mine"),
    ]
    return model_of(nodes, functions=[layer, block])


def as_inputs() -> onnx.ModelProto:
    """Initializers that callers may replace: two with zeros, a small one, one without zeros."""
    full = random_tensor((WIDTH, WIDTH), 1.0, 0, 5)
    arrays = {
        "w": pruned(1),
        "bias": np.ones(WIDTH, np.float32),
        "full": full,
        "v": pruned(2),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Add", ["a", "bias"], ["b"]),
        helper.make_node("MatMul", ["b", "full"], ["c"]),
        helper.make_node("MatMul", ["c", "v"], ["y"]),
    ]
    inputs = [value(name, *array.shape) for name, array in arrays.items()]
    return model_of(
        nodes, [tensor(array, name) for name, array in arrays.items()], inputs=inputs
    )


def of_ir_version_3() -> onnx.ModelProto:
    made = as_inputs()
    made.ir_version = 3
    made.opset_import[0].version = 11
    return made


PLACES: dict[str, Callable[[], onnx.ModelProto]] = {
    each.__name__: each
    for each in (
        in_nodes, beside_dense_ones, in_branches, in_a_loop, in_a_scan, in_functions, as_inputs, of_ir_version_3
    )
}  # fmt: skip
