"""Random layers, sparse against onnxruntime's own dense operators; many in one model, so that thousands are quick.

As a program it checks one instruction set, with any onnxruntime: `python tests/runtime/cases.py LIBRARY COUNT SEED`.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.runtime.random_layers import (
    Case,
    Floats,
    random_attention,
    random_conv,
    random_depthwise,
    random_joined,
    random_matmul,
    random_pool,
    random_pooled,
    random_sum,
    sparse,
)
from tests.runtime.random_mlps import own_nodes, random_mlp, standard_nodes
from tests.runtime.random_planes import (
    halves_nodes,
    on_planes,
    random_chain,
    random_halves,
    random_planes_sum,
)

__all__ = [
    "Case",
    "random_conv",
    "random_depthwise",
    "random_joined",
    "random_matmul",
    "random_pool",
    "random_pooled",
]
__all__ += [
    "random_attention",
    "random_chain",
    "random_halves",
    "random_mlp",
    "random_planes_sum",
    "random_sum",
    "sparse",
]


def sparse_nodes(
    case: Case, tag: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The case as one operator of ours; on planes, as one for each layer."""
    if case.padded:
        return _planes_nodes(case, tag)
    if case.kind == "Mlp" or case.norm is not None:
        return own_nodes(case, tag, encode)
    if case.kind in ("MaxPool", "Attention"):
        return [
            helper.make_node(
                case.kind,
                [f"x{tag}"],
                [f"y{tag}"],
                domain="sparsify_fx",
                **case.attributes,
            )
        ], []
    if case.second is not None and case.second.kind == "Conv":
        return (_sum_node if case.kind == "ConvSum" else _joined_node)(
            case, case.second, tag
        )
    constants = {"w": case.weight}
    if case.packed:
        values, gaps = encode(case.weight)
        constants = {"w": values, "gaps": gaps}
    if case.bias is not None:
        constants["b"] = case.bias
    inputs = [
        f"x{tag}",
        f"w{tag}",
        f"gaps{tag}" if case.packed else "",
        f"b{tag}" if case.bias is not None else "",
    ]
    inputs += [f"z{tag}"] if case.residual is not None else []
    node = helper.make_node(
        _operator(case), inputs, [f"y{tag}"], domain="sparsify_fx", **case.attributes
    )
    if case.packed:
        node.attribute.append(helper.make_attribute("weight_shape", case.weight.shape))
    if case.activation:
        node.attribute.append(helper.make_attribute("activation", case.activation))
    if case.second is not None:
        pool = {f"pool_{name}": value for name, value in case.second.attributes.items()}
        node.attribute.extend(
            helper.make_attribute(name, value) for name, value in pool.items()
        )
    return [node], [
        numpy_helper.from_array(array, name + tag) for name, array in constants.items()
    ]


def _planes_nodes(
    case: Case, tag: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    if case.kind == "Halves":
        node = helper.make_node(
            "HalvePlanes",
            [f"x{tag}"],
            [f"y{tag}"],
            domain="sparsify_fx",
            **case.attributes,
        )
        return on_planes([node], case, tag), []
    chain = case.second is not None and case.kind == "Conv"
    nodes, weights = sparse_nodes(
        replace(case, padded=False, second=None if chain else case.second), tag
    )
    if chain and case.second is not None:
        more, more_weights = sparse_nodes(replace(case.second, padded=False), f"{tag}b")
        nodes[0].output[0], more[0].output[0] = more[0].input[0], nodes[0].output[0]
        nodes, weights = nodes + more, weights + more_weights
    return on_planes(nodes, case, tag), weights


def _operator(case: Case) -> str:
    return f"Sparse{case.kind}" + ("Pool" if case.second is not None else "")


def _joined_node(
    case: Case, second: Case, tag: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    (values, gaps), (more, more_gaps) = encode(case.weight), encode(second.weight)
    constants = {
        "w": values,
        "gaps": gaps,
        "b": case.bias,
        "d": more,
        "dgaps": more_gaps,
        "c": second.bias,
    }
    given = {name: array for name, array in constants.items() if array is not None}
    inputs = [
        f"x{tag}",
        *(f"{name}{tag}" if name in given else "" for name in constants),
    ]
    attributes: dict[str, object] = {
        f"depthwise_{name}": value for name, value in second.attributes.items()
    }
    attributes |= {
        "weight_shape": case.weight.shape,
        "depthwise_shape": second.weight.shape,
    }
    attributes |= {"activation": case.activation} if case.activation else {}
    attributes |= (
        {"depthwise_activation": second.activation} if second.activation else {}
    )
    node = helper.make_node(
        "SparseConvDepthwise", inputs, [f"y{tag}"], domain="sparsify_fx", **attributes
    )
    return [node], [
        numpy_helper.from_array(array, name + tag) for name, array in given.items()
    ]


def _sum_node(
    case: Case, second: Case, tag: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    (values, gaps), (more, more_gaps) = encode(case.weight), encode(second.weight)
    constants = {
        "w": values,
        "gaps": gaps,
        "b": case.bias,
        "v": more,
        "vgaps": more_gaps,
        "c": second.bias,
    }
    given = {name: array for name, array in constants.items() if array is not None}
    names = [f"{name}{tag}" if name in given else "" for name in constants]
    attributes = case.attributes | {
        "weight_shape": case.weight.shape,
        "projection_shape": second.weight.shape,
    }
    attributes |= {"activation": case.activation} if case.activation else {}
    attributes |= {"projection_strides": second.attributes["strides"]}
    inputs = [f"x{tag}", *names[:3], f"z{tag}", *names[3:]]
    node = helper.make_node(
        "SparseConvSum", inputs, [f"y{tag}"], domain="sparsify_fx", **attributes
    )
    return [node], [
        numpy_helper.from_array(array, name + tag) for name, array in given.items()
    ]


def encode(weight: Floats) -> tuple[Floats, NDArray[np.uint8]]:
    """Gap codes, one number at a time: written anew here, so that it checks the package's own encoder."""
    values, gaps, gap = [], [], 0
    for value in weight.ravel():
        if value != 0 or gap == 255:
            values.append(value)
            gaps.append(gap)
            gap = 0
        else:
            gap += 1
    return np.array(values or [0], np.float32), np.array(
        gaps if values else [0], np.uint8
    )


def dense_nodes(
    case: Case, tag: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The same case in standard operators."""
    if case.kind == "MaxPool":
        return [
            helper.make_node("MaxPool", [f"x{tag}"], [f"y{tag}"], **case.attributes)
        ], []
    if case.kind == "Halves":
        return halves_nodes(case, tag)
    if case.kind == "Mlp" or case.norm is not None:
        return standard_nodes(case, tag, dense_nodes)
    if case.kind == "Attention":
        return _dense_attention(case, tag)
    if case.second is not None and case.kind == "ConvSum":
        first, second = (
            dense_nodes(replace(case, kind="Conv", second=None), f"{tag}a"),
            dense_nodes(case.second, f"{tag}b"),
        )
        names = [
            (f"z{tag}", f"x{tag}b"),
            (f"y{tag}b", f"z{tag}a"),
            (f"x{tag}", f"x{tag}a"),
            (f"y{tag}a", f"y{tag}"),
        ]
        links = [
            helper.make_node("Identity", [source], [target]) for source, target in names
        ]
        return [links[0], *second[0], *links[1:3], *first[0], links[3]], first[
            1
        ] + second[1]
    if case.second is not None:
        first, second = (
            dense_nodes(replace(case, second=None), f"{tag}a"),
            dense_nodes(case.second, f"{tag}b"),
        )
        names = [
            (f"x{tag}", f"x{tag}a"),
            (f"y{tag}a", f"x{tag}b"),
            (f"y{tag}b", f"y{tag}"),
        ]
        names += [(f"z{tag}", f"z{tag}a")] if case.residual is not None else []
        links = [
            helper.make_node("Identity", [source], [target]) for source, target in names
        ]
        return [links[0], *links[3:], *first[0], links[1], *second[0], links[2]], first[
            1
        ] + second[1]
    weight, constants = case.weight, {}
    attributes = dict(case.attributes)
    if case.kind == "MatMul" and attributes.pop("transB"):
        weight = np.ascontiguousarray(weight.T)
    steps: list[tuple[str, list[str], dict[str, object]]] = [
        (case.kind, ["w"], attributes)
    ]
    constants["w"] = weight
    if case.bias is not None:
        shape = (-1, *[1] * (case.x.ndim - 2)) if case.kind == "Conv" else (-1,)
        constants["b"] = case.bias.reshape(shape)
        steps.append(("Add", ["b"], {}))
    if case.residual is not None:
        steps.append(("Add", ["z"], {}))
    if case.activation in ("Relu", "Gelu"):
        steps.append((case.activation, [], {}))
    if case.activation == "Relu6":
        constants |= {"low": np.float32(0), "high": np.float32(6)}
        steps.append(("Clip", ["low", "high"], {}))
    nodes, name = [], f"x{tag}"
    for number, (kind, others, given) in enumerate(steps):
        following = f"h{number}{tag}"
        nodes.append(
            helper.make_node(
                kind, [name, *[other + tag for other in others]], [following], **given
            )
        )
        name = following
    if case.activation == "Silu":
        nodes.append(helper.make_node("Sigmoid", [name], [f"s{tag}"]))
        nodes.append(helper.make_node("Mul", [name, f"s{tag}"], [f"y{tag}"]))
    else:
        nodes.append(helper.make_node("Identity", [name], [f"y{tag}"]))
    return nodes, [
        numpy_helper.from_array(np.asarray(array), key + tag)
        for key, array in constants.items()
    ]


def _dense_attention(
    case: Case, tag: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """By the definition, in float64, so that all of the difference is ours."""
    heads, size, flip, scales = (
        case.attributes[name]
        for name in ("heads", "head_size", "tokens_first", "scales")
    )
    first, second, width = case.x.shape
    constants = {
        "heads": np.array([first, second, heads, size]),
        "out": np.array([first, second, width // 3]),
    }
    constants["scale"] = np.array(np.float32(scales).prod(dtype=np.float64))
    order = [1, 2, 0, 3] if flip else [0, 2, 1, 3]
    steps = [("Cast", ["x"], ["wide"], {"to": TensorProto.DOUBLE})]
    steps += [("Split", ["wide"], list("qkv"), {"axis": 2, "num_outputs": 3})]
    steps += [("Reshape", [name, "heads"], [f"{name}_heads_"], {}) for name in "qkv"]
    perms = {"q": order, "k": [order[0], order[1], 3, order[2]], "v": order}
    steps += [
        ("Transpose", [f"{name}_heads_"], [f"{name}_moved_"], {"perm": perm})
        for name, perm in perms.items()
    ]
    steps += [
        ("MatMul", ["q_moved_", "k_moved_"], ["s_"], {}),
        ("Mul", ["s_", "scale"], ["scaled_"], {}),
    ]
    steps += [
        ("Softmax", ["scaled_"], ["p"], {"axis": -1}),
        ("MatMul", ["p", "v_moved_"], ["m"], {}),
    ]
    steps += [
        ("Transpose", ["m"], ["back_"], {"perm": np.argsort(order).tolist()}),
        ("Reshape", ["back_", "out"], ["r"], {}),
    ]
    steps += [("Cast", ["r"], ["y"], {"to": TensorProto.FLOAT})]
    nodes = [
        helper.make_node(
            kind,
            [each + tag for each in inputs],
            [each + tag for each in outputs],
            **given,
        )
        for kind, inputs, outputs, given in steps
    ]
    return nodes, [
        numpy_helper.from_array(array, name + tag) for name, array in constants.items()
    ]


def model_of(
    parts: list[tuple[list[onnx.NodeProto], list[onnx.TensorProto]]], cases: list[Case]
) -> bytes:
    """All parts side by side in one model; case i reads x{i} and z{i} and writes y{i}."""
    nodes = [node for part, _ in parts for node in part]
    weights = [tensor for _, tensors in parts for tensor in tensors]
    given = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)
        for name, array in feeds(cases).items()
    ]
    results = [
        helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, None)
        for i in range(len(cases))
    ]
    graph = helper.make_graph(nodes, "cases", given, results, weights)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("sparsify_fx", 1)]
    data: bytes = helper.make_model(
        graph, opset_imports=opsets, ir_version=9
    ).SerializeToString()
    return data


def feeds(cases: list[Case]) -> dict[str, Floats]:
    """The inputs of all cases by name."""
    named = {f"x{i}": case.x for i, case in enumerate(cases)}
    return named | {
        f"z{i}": case.residual
        for i, case in enumerate(cases)
        if case.residual is not None
    }


def open_session(
    model: bytes, library: str | None, threads: int = 1
) -> onnxruntime.InferenceSession:
    """A session on the CPU, with our operators if `library` is given."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = (
        False  # every tensor its own allocation, which sanitizers watch
    )
    options.log_severity_level = (
        4  # errors are raised; they need not be printed as well
    )
    if library is not None:
        options.register_custom_ops_library(library)
    else:  # as it stands: onnxruntime 1.18 makes an operator of float64 products that it does not have
        options.graph_optimization_level = (
            onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        )
    return onnxruntime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"]
    )


def worst_error(cases: list[Case], library: str, threads: int = 1) -> float:
    """The largest difference of any case, as a fraction of its largest output (or of `least_output`)."""
    tags = [str(i) for i in range(len(cases))]
    dense = model_of(
        [dense_nodes(case, tag) for case, tag in zip(cases, tags, strict=True)], cases
    )
    ours = model_of(
        [sparse_nodes(case, tag) for case, tag in zip(cases, tags, strict=True)], cases
    )
    expected = open_session(dense, None).run(None, feeds(cases))
    got = open_session(ours, library, threads).run(None, feeds(cases))
    worst = 0.0
    for case, a, b in zip(cases, expected, got, strict=True):
        if a.shape != b.shape:
            raise AssertionError(
                f"shape {b.shape}, expected {a.shape}: {describe(case)}"
            )
        error = float(
            np.abs(a - b).max(initial=0)
            / max(np.abs(a).max(initial=0), least_output(case))
        )
        if not error < 1e-5:
            raise AssertionError(f"error {error:.2g}: {describe(case)}")
        worst = max(worst, error)
    return worst


def least_output(case: Case) -> float:
    """Below that errors are absolute ones. GELU's is exact to 2e-7 of x, whatever little it leaves of that."""
    layers = [case] if case.second is None else [case, case.second]
    return 0.05 if any(layer.activation == "Gelu" for layer in layers) else 1e-3


def describe(case: Case) -> str:
    """What one needs to repeat a case that failed."""
    extras = (
        case.bias is not None,
        case.residual is not None,
        case.activation,
        case.packed,
    )
    second = "" if case.second is None else f", then {describe(case.second)}"
    return f"{case.kind} x{case.x.shape} w{case.weight.shape} {case.attributes} {extras}{second}"


def check_many(library: str, count: int, seed: int) -> float:
    """`count` random cases of all kinds, on one and two threads in turn."""
    random = np.random.default_rng(seed)
    kinds = (
        random_conv,
        random_depthwise,
        random_joined,
        random_pooled,
        random_matmul,
        random_pool,
        random_conv,
    )
    kinds += (
        random_sum,
        random_chain,
        random_planes_sum,
        random_attention,
        random_mlp,
        random_halves,
    )
    worst = 0.0
    for start in range(0, count, 50):
        cases = [
            kinds[i % len(kinds)](random) for i in range(start, min(start + 50, count))
        ]
        worst = max(worst, worst_error(cases, library, threads=1 + start // 50 % 2))
    return worst


if __name__ == "__main__":
    worst = check_many(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    print(
        f"onnxruntime {onnxruntime.__version__}: {sys.argv[2]} cases, largest relative error {worst:.2g}"
    )
