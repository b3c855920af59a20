"""Models that are rewritten to sparse operators, and back, give the same answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx import runtime
from sparsify_fx.runtime.encode import decode_gaps, encode_gaps
from tests.runtime import cases


class Mixed(nn.Module):
    """A residual block, a depthwise and a strided layer, tails of every kind, a linear layer; 6 classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 24, 3, stride=2, padding=1)
        self.left = nn.Conv2d(24, 24, 3, padding=1)
        self.right = nn.Conv2d(24, 24, 1, bias=False)
        self.deep = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.wide = nn.Conv2d(24, 40, 1)
        self.plain = nn.Linear(40, 20, bias=False)
        self.head = nn.Linear(20, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.left(x) + self.right(x))
        x = F.relu6(self.deep(x))
        x = F.silu(self.wide(x)).flatten(2).transpose(1, 2)
        x = F.relu(self.plain(x) + 1.0).mean(1)
        return self.head(x)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    """`Mixed` with nine weights in ten zero, exported dense."""
    net = Mixed().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:
                parameter *= torch.rand(parameter.shape) < 0.1
    path = tmp_path_factory.mktemp("mixed") / "mixed.onnx"
    # Without the passes over the graph, which would remove channels and move the addition into the layer before it.
    sparsify_fx.export(
        net, path, torch.randn(2, 3, 20, 20), encoding="dense", optimize=False
    )
    return onnx.load(path)


def run(
    model: onnx.ModelProto, x: np.ndarray, library: str | None = None
) -> np.ndarray:
    session = cases.open_session(model.SerializeToString(), library)
    result: np.ndarray = session.run(None, {session.get_inputs()[0].name: x})[0]
    return result


def images(batch: int) -> np.ndarray:
    return np.random.default_rng(batch).standard_normal((batch, 3, 20, 20), np.float32)


@pytest.mark.parametrize("batch", [1, 5])
def test_a_rewritten_model_answers_as_before(
    model: onnx.ModelProto, batch: int
) -> None:
    sparse, names = runtime.to_sparse(model, lambda layer: True)
    kinds = [node.op_type for node in sparse.graph.node if node.domain == "sparsify_fx"]
    assert (len(names), kinds.count("SparseConv"), kinds.count("SparseMatMul")) == (
        7,
        5,
        2,
    )
    expected = run(model, images(batch))
    np.testing.assert_allclose(
        run(sparse, images(batch), runtime.library()), expected, atol=1e-5
    )
    np.testing.assert_allclose(
        run(runtime.to_dense(sparse), images(batch)), expected, atol=1e-5
    )


def test_tails_are_taken_over(model: onnx.ModelProto) -> None:
    sparse, _ = runtime.to_sparse(model, lambda layer: True)
    activations = [
        a.s.decode()
        for node in sparse.graph.node
        for a in node.attribute
        if node.domain and a.name == "activation"
    ]
    assert sorted(activations) == ["Relu", "Relu", "Relu6", "Silu"]
    assert [
        len(node.input) for node in sparse.graph.node if node.op_type == "SparseConv"
    ].count(5) == 1
    left = {node.op_type for node in sparse.graph.node if not node.domain}
    assert not left & {"Conv", "Gemm", "MatMul", "Sigmoid", "Clip"}


def test_the_limits_of_relu6_take_no_name_from_the_model(
    model: onnx.ModelProto,
) -> None:
    own, name = onnx.ModelProto(), "sparsify_fx.six"
    own.CopyFrom(model)
    bias = own.graph.initializer[-1].name
    next(t for t in own.graph.initializer if t.name == bias).name = name
    for node in own.graph.node:
        node.input[:] = [name if each == bias else each for each in node.input]

    sparse, _ = runtime.to_sparse(own, lambda layer: True)
    expected = run(own, images(2))
    np.testing.assert_allclose(
        run(runtime.to_dense(sparse), images(2)), expected, atol=1e-5
    )


class Projected(nn.Module):
    """Two residual blocks that end in a sum with a projection; what the first projection gives is an output, too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.ends, self.projections = (
            nn.ModuleList(
                nn.Conv2d(channels, 40, 1, stride=stride) for channels, stride in sizes
            )
            for sizes in (((3, 1), (40, 1)), ((3, 1), (40, 2)))
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen = self.projections[0](x)
        x = F.relu(self.ends[0](x) + seen)
        return F.relu(self.ends[1](x[:, :, ::2, ::2]) + self.projections[1](x)), seen


def test_a_projection_joins_what_it_is_added_to_unless_others_read_it(
    tmp_path: Path,
) -> None:
    net = Projected().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter *= torch.rand(parameter.shape) < 0.3
    sparsify_fx.export(
        net,
        tmp_path / "net.onnx",
        torch.randn(2, 3, 20, 20),
        encoding="dense",
        optimize=False,
    )
    model = onnx.load(tmp_path / "net.onnx")
    sparse, names = runtime.to_sparse(model, lambda layer: True)
    layers = [
        node.op_type for node in sparse.graph.node if node.op_type.startswith("Sparse")
    ]
    assert layers == ["SparseConv", "SparseConv", "SparseConvSum"]
    assert sorted(runtime.sparse_weights(sparse)) == sorted(names)
    dense = runtime.to_dense(sparse)
    assert not any(node.domain for node in dense.graph.node)
    for batch in (1, 3):
        x = {model.graph.input[0].name: images(batch)}
        results = [
            cases.open_session(m.SerializeToString(), runtime.library()).run(None, x)
            for m in (model, sparse, dense)
        ]
        for expected, got, back in zip(*results, strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-5)
            np.testing.assert_allclose(back, expected, atol=1e-5)
    before, after = (
        {t.name: numpy_helper.to_array(t) for t in m.graph.initializer}
        for m in (model, dense)
    )
    for name in names:
        np.testing.assert_array_equal(before[name], after[name])


def with_constant_nodes(model: onnx.ModelProto, most_axes: int) -> onnx.ModelProto:
    """The same model with small initializers as Constant nodes, as older exporters write them."""
    other = onnx.ModelProto.FromString(model.SerializeToString())
    tensors = [
        tensor for tensor in other.graph.initializer if len(tensor.dims) <= most_axes
    ]
    nodes = [
        helper.make_node("Constant", [], [tensor.name], value=tensor)
        for tensor in tensors
    ]
    for tensor in tensors:
        other.graph.initializer.remove(tensor)
    nodes += list(other.graph.node)
    del other.graph.node[:]
    other.graph.node.extend(nodes)
    return other


def test_tails_with_constant_nodes_are_taken_over_too(model: onnx.ModelProto) -> None:
    sparse, names = runtime.to_sparse(with_constant_nodes(model, 1), lambda layer: True)
    usual, usual_names = runtime.to_sparse(model, lambda layer: True)
    assert names == usual_names
    kinds, usual_kinds = (
        [n.op_type for n in each.graph.node if n.op_type != "Constant"]
        for each in (sparse, usual)
    )
    assert kinds == usual_kinds
    read = {name for node in sparse.graph.node for name in node.input}
    assert all(
        node.output[0] in read
        for node in sparse.graph.node
        if node.op_type == "Constant"
    )
    expected = run(usual, images(2), runtime.library())
    np.testing.assert_array_equal(run(sparse, images(2), runtime.library()), expected)
    np.testing.assert_allclose(
        run(runtime.to_dense(sparse), images(2)), expected, atol=1e-5
    )


def test_weights_of_constant_nodes_stay_dense(model: onnx.ModelProto) -> None:
    sparse, names = runtime.to_sparse(with_constant_nodes(model, 4), lambda layer: True)
    assert names == []
    assert not any(node.domain for node in sparse.graph.node)


def test_a_chosen_layer_alone_is_rewritten(model: onnx.ModelProto) -> None:
    sparse, names = runtime.to_sparse(model, lambda layer: layer.weight.shape[-1] == 1)
    assert len(names) == 2
    expected = run(model, images(2))
    np.testing.assert_allclose(
        run(sparse, images(2), runtime.library()), expected, atol=1e-5
    )


def test_weights_come_back_bit_for_bit(model: onnx.ModelProto) -> None:
    sparse, _ = runtime.to_sparse(model, lambda layer: layer.node.op_type == "Conv")
    dense = runtime.to_dense(sparse)
    before, after = (
        {
            tensor.name: numpy_helper.to_array(tensor)
            for tensor in each.graph.initializer
        }
        for each in (model, dense)
    )
    weights = [name for name in before if name.endswith((".weight", ".bias"))]
    assert len(weights) == 11
    for name in weights:
        np.testing.assert_array_equal(before[name], after[name])


def test_dense_layers_stay_dense(model: onnx.ModelProto) -> None:
    full = onnx.ModelProto()
    full.CopyFrom(model)
    for tensor in full.graph.initializer:
        if len(tensor.dims) > 1 and tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(
                numpy_helper.from_array(
                    np.ones(tuple(tensor.dims), np.float32), tensor.name
                )
            )
    sparse, names = runtime.to_sparse(full)
    assert names == []
    assert sparse.SerializeToString() == full.SerializeToString()


def layer_model(
    density: float, size: int | str = 14, channels: int = 256
) -> onnx.ModelProto:
    weight = np.random.default_rng(0).standard_normal(
        (channels, channels, 1, 1), np.float32
    )
    weight *= np.random.default_rng(1).random(weight.shape) < density
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    x = helper.make_tensor_value_info(
        "x", TensorProto.FLOAT, ["batch", channels, size, size]
    )
    y = helper.make_tensor_value_info(
        "y", TensorProto.FLOAT, ["batch", channels, size, size]
    )
    graph = helper.make_graph(
        [node], "layer", [x], [y], [numpy_helper.from_array(weight, "w")]
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )


@pytest.mark.parametrize("autotune", [False, True])
def test_the_choice_follows_density(autotune: bool) -> None:
    assert runtime.to_sparse(layer_model(0.02), autotune=autotune)[1] == ["w"]
    assert runtime.to_sparse(layer_model(1.0), autotune=autotune)[1] == []


def test_files_open_in_one_line(model: onnx.ModelProto, tmp_path: Path) -> None:
    sparse, _ = runtime.to_sparse(model, lambda layer: True)
    onnx.save(sparse, tmp_path / "sparse.onnx")
    session = runtime.session(tmp_path / "sparse.onnx", threads=1)
    got = session.run(None, {session.get_inputs()[0].name: images(2)})[0]
    np.testing.assert_allclose(got, run(model, images(2)), atol=1e-5)
    with pytest.raises(Exception, match="sparsify_fx"):
        onnxruntime.InferenceSession(
            tmp_path / "sparse.onnx", providers=["CPUExecutionProvider"]
        )


@pytest.mark.parametrize("density", [0.0, 0.001, 0.05, 0.5, 1.0])
def test_gap_codes_give_back_every_bit(density: float) -> None:
    random = np.random.default_rng(0)
    for shape in ((1,), (3, 5), (7, 1000), (2, 3, 3, 300)):
        dense = np.where(
            random.random(shape) < density,
            random.standard_normal(shape, np.float32),
            np.float32(0),
        )
        values, gaps = encode_gaps(dense)
        np.testing.assert_array_equal(decode_gaps(values, gaps, shape), dense)
        expected = cases.encode(dense)
        if density:
            assert np.array_equal(values, expected[0][: len(values)])
            assert np.array_equal(gaps, expected[1][: len(gaps)])


def test_gap_codes_keep_the_sign_of_zeros() -> None:
    dense = np.float32([[0, -0.0, 3], [-0.0, 0, 0]])
    values, gaps = encode_gaps(dense)
    assert (values.tolist(), gaps.tolist()) == ([0, 3, 0], [1, 0, 0])
    assert decode_gaps(values, gaps, dense.shape).tobytes() == dense.tobytes()


def test_a_weight_that_two_layers_read_is_sparse_for_both_or_neither() -> None:
    weight = np.eye(32, dtype=np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Gemm", ["h", "w"], ["y"], transB=1),
    ]
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 32]) for name in "xy"
    )
    graph = helper.make_graph(
        nodes, "shared", [x], [y], [numpy_helper.from_array(weight, "w")]
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    assert runtime.to_sparse(model, lambda layer: layer.node.op_type == "Gemm")[1] == []
    sparse, names = runtime.to_sparse(model, lambda layer: True)
    assert (names, [tensor.name for tensor in sparse.graph.initializer]) == (
        ["w"],
        ["w.values", "w.gaps"],
    )
    dense = runtime.to_dense(sparse)
    assert [(node.op_type, list(node.input)) for node in dense.graph.node] == [
        ("MatMul", ["x", "w"]), ("Gemm", ["y.sparsify_fx.hidden", "w"])
    ]  # fmt: skip
    assert (
        numpy_helper.to_array(dense.graph.initializer[0]).tobytes() == weight.tobytes()
    )
    feed = {"x": np.random.default_rng(0).standard_normal((4, 32), np.float32)}
    outputs = [
        cases.open_session(m.SerializeToString(), runtime.library()).run(None, feed)[0]
        for m in (sparse, dense)
    ]
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-6)


def test_weights_that_callers_may_replace_stay_dense() -> None:
    weight = numpy_helper.from_array(np.eye(32, dtype=np.float32), "w")
    x, w, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [32, 32])
        for name in "xwy"
    )
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "open", [x, w], [y], [weight]
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    assert runtime.to_sparse(model, lambda layer: True)[1] == []


@pytest.mark.parametrize(
    "attributes",
    [
        {"group": 0},
        {"group": 3},
        {"strides": [0, 1]},
        {"pads": [1, 1]},
        {"dilations": [1]},
    ],
)
def test_convolutions_whose_attributes_make_no_sense_stay(
    attributes: dict[str, object],
) -> None:
    """onnxruntime says what is wrong with them."""
    weight = np.zeros((64, 64, 3, 3), np.float32)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64, 32, 32])
        for name in "xy"
    ]
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    graph = helper.make_graph(
        [node], "g", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")]
    )
    sparse, names = runtime.to_sparse(helper.make_model(graph))
    assert (names, sparse.graph.node[0].op_type) == ([], "Conv")
