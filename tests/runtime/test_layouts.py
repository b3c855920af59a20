"""Layers are chosen together: neighbors in one memory layout, depthwise layers and pooling between sparse ones."""

from __future__ import annotations

import itertools
import math

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

import sparsify_fx
from sparsify_fx import runtime
from sparsify_fx.runtime.candidates import Candidate
from sparsify_fx.runtime.choice.cut import SINK, SOURCE, minimum_cut
from tests.runtime import cases


def test_a_cut_costs_as_little_as_any_division() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        inner = [f"n{i}" for i in range(int(random.integers(1, 7)))]
        names = [SOURCE, SINK, *inner]
        costs = {
            (a, b): float(random.integers(0, 9))
            for a in names
            for b in names
            if a != b and random.random() < 0.5
        }

        def price(side: set[str], costs: dict[tuple[str, str], float] = costs) -> float:
            return sum(
                cost for (a, b), cost in costs.items() if a in side and b not in side
            )

        every = itertools.chain.from_iterable(
            itertools.combinations(inner, n) for n in range(len(inner) + 1)
        )
        prices = {some: price({SOURCE, *some}) for some in every}
        least = [
            set(some) for some, cost in prices.items() if cost == min(prices.values())
        ]
        assert minimum_cut(costs) == {
            SOURCE,
            *set.intersection(*least),
        }  # what costs the same on both sides is left out


def test_a_cut_is_not_decided_by_how_sums_are_rounded() -> None:
    """0.1 + 0.2 is more than 0.3 in float64; as costs they are the same, and then `c` is left out."""
    costs = {
        (SOURCE, "a"): 0.1,
        (SOURCE, "b"): 0.2,
        ("a", "c"): math.inf,
        ("b", "c"): math.inf,
        ("c", SINK): 0.3,
    }
    assert minimum_cut(costs) == {SOURCE}
    assert minimum_cut(costs | {(SOURCE, "b"): 0.21}) == {SOURCE, "a", "b", "c"}
    assert minimum_cut({}) == {SOURCE}


class Inverted(nn.Module):
    """A stem with pooling and two inverted residual blocks, the second with a stride, as in MobileNetV2."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(32, 160, 1),
                nn.ReLU6(),
                nn.Conv2d(160, 160, 3, stride, 1, groups=160),
                nn.ReLU6(),
                nn.Conv2d(160, 32, 1),
            )
            for stride in (1, 2)
        )
        self.head = nn.Linear(32, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.blocks[0](x)
        return self.head(self.blocks[1](x).mean((2, 3)))


def pruned(net: nn.Module, density: float, sides: tuple[int, ...]) -> nn.Module:
    """Only so many weights stay in convolutions whose kernels have one of these sides."""
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 4 and parameter.shape[-1] in sides:
                parameter *= torch.rand(parameter.shape) < density
    return net.eval()


def exported(net: nn.Module, path: object) -> onnx.ModelProto:
    sparsify_fx.export(net, path, images(1), encoding="dense", optimize=False)  # type: ignore[arg-type]
    return onnx.load(path)  # type: ignore[arg-type]


def images(batch: int) -> torch.Tensor:
    return torch.from_numpy(
        np.random.default_rng(batch).standard_normal((batch, 3, 56, 56), np.float32)
    )


def ours(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node if node.domain == "sparsify_fx"]


def run(
    model: onnx.ModelProto, x: torch.Tensor, library: str | None = None
) -> np.ndarray:
    session = cases.open_session(model.SerializeToString(), library)
    result: np.ndarray = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    return result


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    """`Inverted` with 95 % zeros in its 1x1 convolutions alone."""
    return exported(
        pruned(Inverted(), 0.05, (1,)),
        tmp_path_factory.mktemp("inverted") / "model.onnx",
    )


def test_dense_depthwise_layers_join_the_sparse_ones_before_them(
    model: onnx.ModelProto,
) -> None:
    sparse, names = runtime.to_sparse(
        model, sizes={model.graph.input[0].name: (1, 3, 56, 56)}
    )
    assert ours(sparse) == ["SparseConvDepthwise", "SparseConv"] * 2
    assert len(names) == 6
    for batch in (1, 3):
        expected = run(model, images(batch))
        np.testing.assert_allclose(
            run(sparse, images(batch), runtime.library()), expected, atol=1e-5
        )
        np.testing.assert_allclose(
            run(runtime.to_dense(sparse), images(batch)), expected, atol=1e-5
        )


def test_every_weight_of_joined_layers_comes_back(model: onnx.ModelProto) -> None:
    sparse, names = runtime.to_sparse(model, lambda layer: layer.node.op_type == "Conv")
    assert ours(sparse).count("SparseConvDepthwise") == 2
    assert sorted(runtime.sparse_weights(sparse)) == sorted(names)
    before, after = (
        {
            tensor.name: numpy_helper.to_array(tensor)
            for tensor in each.graph.initializer
        }
        for each in (model, runtime.to_dense(sparse))
    )
    for name in names:
        np.testing.assert_array_equal(before[name], after[name])


def test_pooling_between_sparse_layers_is_ours(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    net = pruned(Inverted(), 0.03, (1, 3))
    model = exported(net, tmp_path_factory.mktemp("pooled") / "model.onnx")
    sparse, _ = runtime.to_sparse(
        model, sizes={model.graph.input[0].name: (1, 3, 56, 56)}
    )
    assert ours(sparse)[:2] == ["SparseConvPool", "SparseConvDepthwise"]
    expected = run(model, images(2))
    np.testing.assert_allclose(
        run(sparse, images(2), runtime.library()), expected, atol=1e-5
    )
    back = runtime.to_dense(sparse)
    assert not ours(back)
    standard = [[node.op_type for node in each.graph.node] for each in (model, back)]
    assert standard[0] == standard[1]
    np.testing.assert_allclose(run(back, images(2)), expected, atol=1e-5)


def pooled(density: float, channels: int, also: str = "") -> onnx.ModelProto:
    """A convolution, ReLU and pooling; `also` is a second output."""
    random = np.random.default_rng(0)
    weight = random.standard_normal((64, channels, 3, 3), np.float32) * (
        random.random((64, channels, 3, 3)) < density
    )
    make = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["c", "v"], ["y"]),
    ]
    weights = [numpy_helper.from_array(weight.astype(np.float32), "w")]
    weights.append(
        numpy_helper.from_array(np.eye(64, dtype=np.float32)[..., None, None], "v")
    )
    outputs = [make("y", 1, None), *([make(also, 1, None)] if also else [])]
    graph = helper.make_graph(
        nodes, "g", [make("x", 1, ["batch", channels, 56, 56])], outputs, weights
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )


def test_pooling_joins_the_convolution_before_it_where_that_has_little_to_compute() -> (
    None
):
    def gained(layer: Candidate) -> runtime.Times:
        return runtime.Times(1e9, 1e6)

    joined, apart = (
        ["SparseConvPool", "SparseConv"],
        ["SparseConv", "MaxPool", "SparseConv"],
    )
    kinds = [(0.9, 8, joined), (0.9, 9, apart), (0.02, 128, joined), (0.05, 128, apart)]
    for density, channels, expected in kinds:
        model = pooled(density, channels)
        sparse, _ = runtime.to_sparse(model, timed=gained)
        assert ours(sparse) == expected
        for batch in (1, 3):
            x = torch.randn(
                batch, channels, 56, 56, generator=torch.Generator().manual_seed(batch)
            )
            want = run(model, x)
            np.testing.assert_allclose(
                run(sparse, x, runtime.library()), want, rtol=1e-5, atol=1e-5
            )
            np.testing.assert_allclose(
                run(runtime.to_dense(sparse), x), want, rtol=1e-5, atol=1e-5
            )


def test_a_result_that_others_need_is_not_joined() -> None:
    sparse, _ = runtime.to_sparse(
        pooled(0.1, 8, also="b"), timed=lambda _: runtime.Times(1e9, 1e6)
    )
    assert ours(sparse) == ["SparseConv", "MaxPool", "SparseConv"]


def test_a_layer_whose_copies_cost_more_than_it_gains_stays_dense(
    model: onnx.ModelProto,
) -> None:
    gain = {
        1: 1000.0,
        3: -50000.0,
    }  # nanoseconds; the copies around each 1x1 layer take far more

    def timed(layer: Candidate) -> runtime.Times:
        return runtime.Times(
            1e6, 9e5 - gain[layer.weight.shape[-1]] if layer.weight.ndim == 4 else 2e6
        )

    sparse, names = runtime.to_sparse(
        model, timed=timed, sizes={model.graph.input[0].name: (1, 3, 56, 56)}
    )
    assert names == []
    assert sparse.SerializeToString() == model.SerializeToString()


def test_without_zeros_no_layer_is_taken(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    model = exported(Inverted().eval(), tmp_path_factory.mktemp("dense") / "model.onnx")
    assert runtime.to_sparse(model)[1] == []


def test_pooling_alone_makes_no_sparse_file() -> None:
    weight = np.zeros((64, 64, 1, 1), np.float32)
    weight[::10] = 1
    make = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("MaxPool", ["a"], ["b"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["b", "w"], ["y"]),
    ]
    ends = [
        make("x", 1, [1, 64, 56, 56]),
        make("y", 1, [1, 64, 28, 28]),
        make("w", 1, weight.shape),
    ]
    graph = helper.make_graph(
        nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")]
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    sparse, names = runtime.to_sparse(
        model
    )  # the weight is an output as well: it has to stay
    assert names == []
    assert [(node.op_type, node.domain) for node in sparse.graph.node] == [
        (n.op_type, "") for n in nodes
    ]
    assert not [entry for entry in sparse.opset_import if entry.domain]
