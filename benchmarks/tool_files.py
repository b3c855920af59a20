"""The files of `benchmarks.tools`: small networks at 90 % zeros in every form in which this package stores weights.

    folder/KIND/model.onnx, given.npy (the input), expected.npy (the output in onnxruntime)

To add a kind, add a function here to `KINDS`; what it is made of is told by `traits_of`, not by its name.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from benchmarks.runtimes import OPSET, pruned
from sparsify_fx import runtime
from sparsify_fx.onnx_export import pack_onnx, unpack_onnx

OLD = Path(__file__).parents[1] / "tests/onnx_export/old_files/gap_packed.onnx"

Made = tuple[onnx.ModelProto, NDArray[np.float32]]


def convolutional(batch_norms: bool = True) -> Made:
    """x [1, 3, 16, 16] -> y [1, 10]: three convolutions, with batch norms if wanted, and a Gemm."""
    rng = np.random.default_rng(0)
    weights: dict[str, NDArray[Any]] = {}
    nodes, value = [], "x"
    for at, (given, made) in enumerate(itertools.pairwise((3, 32, 64, 96))):
        weights[f"w{at}"] = pruned(rng, made, given, 3, 3)
        options = {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [1 + (at > 0)] * 2}  # fmt: skip
        nodes.append(
            helper.make_node("Conv", [value, f"w{at}"], [f"c{at}"], f"conv{at}", **options)
        )  # fmt: skip
        value = f"c{at}"
        if batch_norms:
            parts = {f"{part}{at}": rng.random(made) + 0.5 for part in "sbmv"}
            weights |= {name: each.astype(np.float32) for name, each in parts.items()}
            nodes.append(
                helper.make_node("BatchNormalization", [value, *parts], [f"n{at}"], f"norm{at}")
            )  # fmt: skip
            value = f"n{at}"
        nodes.append(helper.make_node("Relu", [value], [f"r{at}"], f"relu{at}"))
        value = f"r{at}"
    weights["fc"] = pruned(rng, 10, 96)
    nodes += [
        helper.make_node("GlobalAveragePool", [value], ["mean"], "pool"),
        helper.make_node("Flatten", ["mean"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "fc"], ["y"], "gemm", transB=1),
    ]
    return _model(nodes, weights, (1, 3, 16, 16), (1, 10))


def layered(*sides: int) -> Made:
    """x [1, sides[0]] -> y [1, sides[-1]]: products with Relu between them."""
    rng, value, nodes, weights = np.random.default_rng(0), "x", [], {}
    for at, (given, made) in enumerate(itertools.pairwise(sides)):
        last = at == len(sides) - 2
        weights[f"w{at}"] = pruned(rng, made, given)
        result = "y" if last else f"h{at}"
        nodes.append(helper.make_node("Gemm", [value, f"w{at}"], [result], f"gemm{at}", transB=1))  # fmt: skip
        if not last:
            nodes.append(helper.make_node("Relu", [result], [f"r{at}"], f"relu{at}"))
        value = f"r{at}"
    return _model(nodes, weights, (1, sides[0]), (1, sides[-1]))


def _model(
    nodes: list[onnx.NodeProto], weights: dict[str, NDArray[Any]],
    given: tuple[int, ...], made: tuple[int, ...],
) -> Made:  # fmt: skip
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", given), ("y", made))
    ]
    tensors = [numpy_helper.from_array(each, name) for name, each in weights.items()]
    graph = helper.make_graph(nodes, "network", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    x = np.random.default_rng(1).standard_normal(given).astype(np.float32)
    return model, x


def quantized(format_: str) -> Made:
    """The convolutional network in 8 bits, by onnxruntime: QDQ, or QOperator."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        quantize_static,
    )

    model, x = convolutional(batch_norms=False)

    class Readings(CalibrationDataReader):
        def __init__(self) -> None:
            self.left: Iterator[dict[str, Any]] = iter([{"x": x}, {"x": x / 2}])

        def get_next(self) -> dict[str, Any] | None:
            return next(self.left, None)

    with tempfile.TemporaryDirectory() as folder:
        source, target = f"{folder}/float.onnx", f"{folder}/int8.onnx"
        onnx.save(model, source)
        quantize_static(source, target, Readings(), quant_format=QuantFormat[format_])
        return onnx.load(target), x


def earlier() -> Made:
    """The file that version 0.1 wrote, with plain weights again."""
    with tempfile.TemporaryDirectory() as folder:
        unpack_onnx(OLD, f"{folder}/plain.onnx")
        model = _renamed(onnx.load(f"{folder}/plain.onnx"))
    side = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    return model, np.random.default_rng(1).standard_normal((1, side)).astype(np.float32)


def _renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    """With the input x and the output y, and one sample, as all networks here."""
    ends = {model.graph.input[0].name: "x", model.graph.output[0].name: "y"}
    for node in model.graph.node:
        node.input[:] = [ends.get(name, name) for name in node.input]
        node.output[:] = [ends.get(name, name) for name in node.output]
    for end in (model.graph.input[0], model.graph.output[0]):
        end.name = ends[end.name]
        end.type.tensor_type.shape.dim[0].dim_value = 1
    return model


def network() -> Made:
    return convolutional()


def plain_network() -> Made:
    return convolutional(batch_norms=False)


def perceptron() -> Made:
    return layered(128, 256, 256, 10)


def large() -> Made:
    """More than 2**22 weights: from there on the target `onnxruntime` rebuilds them in rounds."""
    return layered(1024, 4096, 64)


def wide() -> Made:
    """Layers wide enough for sparse operators."""
    return layered(512, 1024, 512)


def qdq() -> Made:
    return quantized("QDQ")


def qoperator() -> Made:
    return quantized("QOperator")


KINDS: dict[str, tuple[Callable[[], Made], dict[str, Any] | None]] = {
    "dense": (network, None),
    "dense, no batch norm": (plain_network, None),
    "dense, linear": (perceptron, None),
    "dense, large": (large, None),
    "dense, wide": (wide, None),
    "dense, external data": (network, {"external": True}),
    "coo": (network, {"encoding": "coo"}),
    "coo, no batch norm": (plain_network, {"encoding": "coo"}),
    "coo, linear": (perceptron, {"encoding": "coo"}),
    "gap": (network, {"encoding": "gap"}),
    "gap, linear": (perceptron, {"encoding": "gap"}),
    "bitmask": (network, {"encoding": "bitmask"}),
    "gap fp32-packed": (network, {"encoding": "gap", "values": "fp32-packed"}),
    "gap fp16": (network, {"encoding": "gap", "values": "fp16"}),
    "gap int8": (network, {"encoding": "gap", "values": "int8"}),
    "dense int8": (network, {"encoding": "dense", "values": "int8"}),
    "dense, version 0.1": (earlier, None),
    "gap fp32-packed, version 0.1": (earlier, {"old": OLD}),
    "gap, functions": (network, {"encoding": "gap", "functions": True}),
    "gap, MaxUnpool": (network, {"encoding": "gap", "target": "onnxruntime"}),
    "gap, Scan": (large, {"encoding": "gap", "target": "onnxruntime"}),
    "QDQ": (qdq, None),
    "QDQ, gap": (qdq, {"encoding": "gap"}),
    "QOperator": (qoperator, None),
    "QOperator, gap": (qoperator, {"encoding": "gap"}),
    "sparse-ort": (wide, {"target": "sparse-ort"}),
}
"""By name: how the network is made, and what `pack_onnx` is asked for; None: it is saved as it is."""


def make(kind: str, folder: Path) -> Path:
    """Write the files of one kind; returns the model's."""
    source, options = KINDS[kind]
    model, given = source()
    folder.mkdir(parents=True)
    file = folder / "model.onnx"
    if options is None:
        onnx.save(model, str(file))
    elif "old" in options:
        onnx.save(_renamed(onnx.load(options["old"])), str(file))
    elif "external" in options:
        onnx.save(
            model, str(file),
            save_as_external_data=True, location="model.data", size_threshold=256,
        )  # fmt: skip
    else:
        onnx.save(model, str(folder / "dense.onnx"))
        pack_onnx(folder / "dense.onnx", file, **options)
        (folder / "dense.onnx").unlink()
    np.save(folder / "given.npy", given)
    # With the library of sparse operators, where the file has any.
    (output,) = runtime.session(file).run(None, {"x": given})
    np.save(folder / "expected.npy", output)
    return file
