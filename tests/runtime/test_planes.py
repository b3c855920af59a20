"""Sparse convolutions in a chain pass padded planes on; others stay in NCHW; and all of it comes back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import sparsify_fx
from sparsify_fx import runtime
from tests.runtime import cases
from tests.runtime.test_bad_models import session_of

pytestmark = pytest.mark.slow

CONVERT = ("PadPlanes", "UnpadPlanes")


class Residual(nn.Module):
    """Two residual blocks; the second halves its image, and its shortcut has no weights."""

    def __init__(self, side: int = 3, behind: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.behind = behind
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.first = nn.ModuleList(
            [
                nn.Conv2d(16, 16, side, padding=side // 2),
                nn.Conv2d(16, 16, 3, padding=1),
            ]
        )
        self.second = nn.ModuleList(
            [nn.Conv2d(16, 32, 3, 2, 1), nn.Conv2d(32, 32, 3, padding=1)]
        )
        self.head = nn.Linear(32, 5)

    def shortcut(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 16 - self.behind, self.behind))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.first[1](F.relu(self.first[0](x))))
        x = F.relu(self.shortcut(x) + self.second[1](F.relu(self.second[0](x))))
        return self.head(x.mean((2, 3)))


class Shifted(Residual):
    """A shortcut that begins at the second pixel."""

    def shortcut(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, 1::2, ::2], (0, 0, 0, 0, 8, 8))


def exported(net: nn.Module, path: Path, density: float = 0.1) -> onnx.ModelProto:
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 4:
                parameter *= torch.rand(parameter.shape) < density
    sparsify_fx.export(
        net.eval(), path, torch.randn(2, 3, 32, 32), encoding="dense", optimize=False
    )
    return onnx.load(path)


def images(batch: int) -> NDArray[np.float32]:
    return np.random.default_rng(batch).standard_normal((batch, 3, 32, 32), np.float32)


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node if node.domain == "sparsify_fx"]


def check_equal(models: list[onnx.ModelProto], threads: int = 1) -> None:
    """All give the first one's outputs, for several batches."""
    sessions = [
        cases.open_session(m.SerializeToString(), runtime.library(), threads)
        for m in models
    ]
    for batch in (1, 2, 5):
        feed = {models[0].graph.input[0].name: images(batch)}
        expected, *others = (session.run(None, feed)[0] for session in sessions)
        for got in others:
            assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_chain_is_converted_where_it_begins_and_ends(
    threads: int, tmp_path: Path
) -> None:
    model = exported(Residual(), tmp_path / "net.onnx")
    sparse, _ = runtime.to_sparse(model, lambda layer: layer.node.op_type == "Conv")
    assert kinds(sparse) == [
        "PadPlanes",
        *["SparseConv"] * 3,
        "HalvePlanes",
        *["SparseConv"] * 2,
        "UnpadPlanes",
    ]
    check_equal([model, sparse, runtime.to_dense(sparse)], threads)


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    model = exported(Residual(behind=3), tmp_path / "net.onnx")
    back = runtime.to_dense(
        runtime.to_sparse(model, lambda layer: layer.node.op_type == "Conv")[0]
    )
    assert not any(node.domain for node in back.graph.node)
    names = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in back.graph.initializer
    }
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 4:
            np.testing.assert_array_equal(
                names[tensor.name], numpy_helper.to_array(tensor)
            )
    pads = [
        names[node.input[1]].tolist()
        for node in back.graph.node
        if node.op_type == "Pad"
    ]
    assert pads == [[0, 13, 0, 0, 0, 3, 0, 0]]
    onnx.checker.check_model(back, full_check=True)


def test_what_is_no_halving_stays(tmp_path: Path) -> None:
    model = exported(Shifted(), tmp_path / "net.onnx")
    sparse, _ = runtime.to_sparse(model, lambda layer: layer.node.op_type == "Conv")
    assert "HalvePlanes" not in kinds(sparse)
    assert [node.op_type for node in sparse.graph.node].count("Slice") == 2
    check_equal([model, sparse, runtime.to_dense(sparse)])


def test_layers_on_their_own_stay_in_nchw(tmp_path: Path) -> None:
    model = exported(Residual(), tmp_path / "net.onnx")
    layers = [node.input[1] for node in model.graph.node if node.op_type == "Conv"]
    for wanted in (layers[:1], layers[1:2], [layers[0], layers[3]]):
        sparse, _ = runtime.to_sparse(
            model, lambda layer, wanted=wanted: layer.node.input[1] in wanted
        )
        assert set(kinds(sparse)) == {"SparseConv"}


def test_other_kernels_end_a_chain(tmp_path: Path) -> None:
    model = exported(Residual(side=5), tmp_path / "net.onnx")
    sparse, _ = runtime.to_sparse(model, lambda layer: layer.node.op_type == "Conv")
    padded = [
        any(a.name == "padded" for a in n.attribute)
        for n in sparse.graph.node
        if n.op_type == "SparseConv"
    ]
    assert padded == [False, False, True, True, True] or padded == [
        True,
        False,
        True,
        True,
        True,
    ]
    check_equal([model, sparse, runtime.to_dense(sparse)])


def test_a_value_that_others_read_is_converted_for_them(tmp_path: Path) -> None:
    model = exported(Residual(), tmp_path / "net.onnx")
    inner = next(node.output[0] for node in model.graph.node if node.op_type == "Relu")
    model.graph.output.append(
        helper.make_tensor_value_info(inner, TensorProto.FLOAT, None)
    )
    sparse, _ = runtime.to_sparse(model, lambda layer: layer.node.op_type == "Conv")
    assert kinds(sparse).count("UnpadPlanes") == 2
    sessions = [
        cases.open_session(m.SerializeToString(), runtime.library())
        for m in (model, sparse)
    ]
    expected, got = (
        session.run([inner], {model.graph.input[0].name: images(2)})[0]
        for session in sessions
    )
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_results_are_the_same_bits_for_any_number_of_threads(tmp_path: Path) -> None:
    model = exported(Residual(), tmp_path / "net.onnx")
    sparse, _ = runtime.to_sparse(model, lambda layer: layer.node.op_type == "Conv")
    feed = {model.graph.input[0].name: images(3)}
    results = [
        cases.open_session(sparse.SerializeToString(), runtime.library(), threads)
        .run(None, feed)[0]
        .tobytes()
        for threads in (1, 2, 3, 8)
    ]
    assert len(set(results)) == 1


def test_a_shortcut_is_overwritten_by_the_sum(tmp_path: Path) -> None:
    """Both have one symbol for their size, or onnxruntime would not let the sum take the memory of what it adds."""
    model = exported(Residual(), tmp_path / "net.onnx")
    sparse, _ = runtime.to_sparse(model, lambda layer: layer.node.op_type == "Conv")
    sizes = {
        item.name: item.type.tensor_type.shape.dim[0].dim_param
        for item in sparse.graph.value_info
        if item.name
    }
    sums = [
        node
        for node in sparse.graph.node
        if node.op_type == "SparseConv" and len(node.input) == 5
    ]
    assert len(sums) == 2
    for node in sums:
        assert sizes[node.output[0]] == sizes[node.input[4]] != ""


ROOM = np.ones((4, 2, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("weight", "attributes"),
    [
        (ROOM, {}),
        (ROOM, {"pads": [1, 1, 1, 0]}),
        (ROOM, {"pads": [1, 1, 1, 1], "strides": [1, 2]}),
        (ROOM, {"pads": [1, 1, 1, 1], "strides": [3, 3]}),
        (ROOM, {"pads": [1, 1, 1, 1], "dilations": [2, 2]}),
        (ROOM, {"pads": [1, 1, 1, 1], "group": 2}),
        (np.ones((4, 2, 5, 5), np.float32), {"pads": [2, 2, 2, 2]}),
        (np.ones((4, 2, 1), np.float32), {}),
    ],
)
def test_convolutions_that_planes_do_not_take(
    weight: NDArray[np.float32], attributes: dict[str, object]
) -> None:
    with pytest.raises(Exception, match="padded planes need kernels of 1x1"):
        session_of("SparseConv", ["x", "w"], {"padded": 1, **attributes}, w=weight)


def planes(*shape: int, edges: bool = True) -> NDArray[np.float32]:
    """An image as PadPlanes lays it out."""
    session = session_of("PadPlanes", ["x"], {"edges": 1} if edges else {})
    made: NDArray[np.float32] = session.run(None, {"x": np.ones(shape, np.float32)})[0]
    return made


def header(place: int, value: int) -> NDArray[np.float32]:
    """Planes of which a number in the header is another one."""
    damaged = planes(1, 2, 5, 5)
    damaged.view(np.int32)[place] = value
    return damaged


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones((1, 2, 5, 5), np.float32), "must hold padded planes"),
        (np.ones(5, np.float32), "must hold padded planes"),
        (np.ones(0, np.float32), "must hold padded planes"),
        (np.ones(4000, np.float32), "must hold padded planes"),
        (planes(1, 2, 5, 5)[:-1], "damaged header"),
        (header(1, 2), "damaged header"),
        (header(2, 2**31 - 1), "damaged header"),
        (header(3, -1), "damaged header"),
        (header(4, 0), "damaged header"),
        (header(3, 2**24 + 1), "damaged header"),
        (planes(1, 3, 5, 5), "3 channels; the weight needs 2"),
        (planes(1, 2, 5, 5, edges=False), "without the edges"),
    ],
)
def test_tensors_that_are_no_planes(x: NDArray[np.float32], message: str) -> None:
    session = session_of(
        "SparseConv", ["x", "w"], {"padded": 1, "pads": [1, 1, 1, 1]}, w=ROOM
    )
    with pytest.raises(Exception, match=message):
        session.run(None, {"x": x})


def test_what_is_added_must_fit() -> None:
    session = session_of(
        "SparseConv",
        ["x", "w", "", "", "z"],
        {"padded": 1, "pads": [1, 1, 1, 1]},
        w=ROOM,
    )
    session.run(None, {"x": planes(1, 2, 5, 5), "z": planes(1, 4, 5, 5, edges=False)})
    for other in (
        planes(1, 4, 5, 5),
        planes(1, 4, 5, 6, edges=False),
        planes(2, 4, 5, 5, edges=False),
    ):
        with pytest.raises(
            Exception, match="input Z must have the shape and the edges"
        ):
            session.run(None, {"x": planes(1, 2, 5, 5), "z": other})


@pytest.mark.parametrize(
    "shape",
    [
        (0, 2, 5, 5),
        (1, 2, 0, 5),
        (1, 2, 5, 0),
        (1, 0, 5, 5),
        (3, 2, 1, 1),
        (1, 2, 300, 1),
    ],
)
def test_planes_of_any_size_come_back(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    for edges in ({}, {"edges": 1}):
        laid = session_of("PadPlanes", ["x"], edges).run(None, {"x": x})[0]
        np.testing.assert_array_equal(
            session_of("UnpadPlanes", ["x"], {}).run(None, {"x": laid})[0], x
        )


@pytest.mark.parametrize(
    ("attributes", "message"),
    [({"before": -1}, "before is -1; expected from 0"), ({"behind": 2**40}, "behind")],
)
def test_halves_of_no_sense(attributes: dict[str, int], message: str) -> None:
    with pytest.raises(Exception, match=message):
        session_of("HalvePlanes", ["x"], attributes)
