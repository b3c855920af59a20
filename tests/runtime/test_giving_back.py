"""Whole models decide: layers that make the file slower are given back, and tuned choices are never worse."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import sparsify_fx
from sparsify_fx import runtime
from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export import pack_onnx
from sparsify_fx.onnx_export.files.metadata import get_metadata
from sparsify_fx.runtime import Times
from sparsify_fx.runtime.candidates import Candidate
from sparsify_fx.runtime.choice.giving_back import Tried, fastest
from sparsify_fx.runtime.choice.in_place import dense_times, sparse_times
from sparsify_fx.runtime.choice.racing import made_up, open_model, race
from tests.runtime.sparse_files import X, net

pytestmark = pytest.mark.slow

SIDE = 384


def products(
    *densities: float, rows: int | str = 48, side: int = SIDE
) -> onnx.ModelProto:
    """Matrix products one after another, with ReLU between, of weights w0, w1, ... of these densities."""
    random = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for number, density in enumerate(densities):
        weight = random.standard_normal((side, side), np.float32) / np.float32(
            np.sqrt(side)
        )
        weight *= random.random(weight.shape) < density
        weights.append(numpy_helper.from_array(weight, f"w{number}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{number}"], [f"h{number}"]))
        nodes.append(helper.make_node("Relu", [f"h{number}"], [f"r{number}"]))
        last = f"r{number}"
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, side])
        for name in ("x", last)
    ]
    graph = helper.make_graph(nodes, "products", ends[:1], ends[1:], weights)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9
    )


def everything(layer: Candidate, batch: int = 1) -> Times:
    """An estimate that finds every sparse kernel a hundred times as fast."""
    return Times(1e6, 1e4)


def tried(model: onnx.ModelProto, estimated: Any = everything, **options: Any) -> Tried:
    return fastest(
        model,
        lambda timed: runtime.to_sparse(model, timed=timed),
        estimated,
        made_up(model),
        **options,
    )


def test_all_is_given_back_where_nothing_is_faster() -> None:
    found = tried(products(0.7, 0.8))
    assert found.names == []
    assert found.first is not None
    assert found.first > 1
    assert found.ratio == 1
    assert sorted(found.given_back) == ["w0", "w1"]
    assert all(not node.domain for node in found.model.graph.node)
    assert found.sentence == (
        f"given back: 2 layers, the file would have been {found.first:.2f}x as slow as dense"
    )


@pytest.mark.parametrize("add", [False, True])
def test_the_layers_that_are_slower_are_given_back_and_no_others(add: bool) -> None:
    # Each of seven loses about half of what each of two gains, by a wide margin.
    found = tried(products(0.02, *[0.97] * 7, 0.02), add=add)
    assert set(found.names) == {"w0", "w8"}
    assert set(found.given_back) == {f"w{number}" for number in range(1, 8)}
    assert found.ratio < 1
    assert found.sentence.startswith("given back: 7 layers, ")


def test_an_estimate_that_is_faster_stays_as_it_is() -> None:
    model = products(0.02, 0.02)
    found = tried(model, runtime.estimate)
    expected, names = runtime.to_sparse(model)
    assert (found.names, found.given_back, found.sentence, found.searched) == (
        names,
        (),
        "",
        False,
    )
    assert found.model == expected


def test_tuning_finds_layers_that_the_estimate_left_dense() -> None:
    """Not when the estimate is right about them, and within what it doubts only."""
    found = tried(products(0.02, 0.02), lambda layer: Times(1e5, 1.2e5), add=True)
    assert found.names == ["w0", "w1"]
    assert found.ratio < 1


def test_times_are_found_for_layers_where_they_stand() -> None:
    """In blocks of channels, joined and not, with what follows a layer."""
    model = _exported()
    layers: dict[str, Candidate] = {}

    def timed(layer: Candidate) -> Times:
        layers[layer.node.output[0]] = layer
        return Times(1e6, 1e4)

    sparse, names = runtime.to_sparse(model, timed=timed)
    feed = next(iter(made_up(model, {model.graph.input[0].name: (2, 3, 20, 20)})))
    dense = dense_times(model, layers.values(), feed)
    own = sparse_times(sparse, layers.values(), feed)
    assert set(dense) == set(layers)
    assert {layers[key].node.input[1] for key in own} == set(names)
    assert all(taken > 0 for taken in dense.values())
    heaviest = max(dense, key=dense.__getitem__)
    assert layers[heaviest].weight.shape[::2] == (96, 3)


def _exported() -> onnx.ModelProto:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        sparsify_fx.export(net(), f"{folder}/dense.onnx", X, encoding="dense")
        return onnx.load(f"{folder}/dense.onnx")


def test_autotune_takes_open_sizes() -> None:
    model = products(0.02, 0.9, rows="rows", side=256)
    sparse, names = runtime.to_sparse(model, autotune=True, sizes={"x": (64, 256)})
    assert names == ["w0"]
    assert [node.op_type for node in sparse.graph.node if node.domain] == [
        "SparseMatMul"
    ]


def test_autotune_of_a_model_that_cannot_run_says_so() -> None:
    model = products(0.02)
    shape = numpy_helper.from_array(np.array([7, 7, 7], np.int64), "shape")
    model.graph.initializer.append(shape)
    model.graph.node.append(helper.make_node("Reshape", ["r0", "shape"], ["y"]))
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    )
    with pytest.raises(
        ExportError,
        match="layers cannot be timed, since the model runs on none of the inputs",
    ):
        runtime.to_sparse(model, autotune=True)


def test_a_race_tells_a_slower_model() -> None:
    light, heavy = products(1.0), products(1.0, 1.0, 1.0, 1.0)
    feed = next(iter(made_up(light)))
    result = race(
        open_model(light), [open_model(heavy), open_model(light)], feed, seconds=0.5
    )
    assert result.ratios[0] > 2 > result.ratios[1]


@pytest.mark.parametrize("autotune", [False, True])
def test_files_are_never_slower_than_dense(
    autotune: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "estimate", everything)
    onnx.save(products(0.7, 0.8), tmp_path / "dense.onnx")
    without = pack_onnx(
        tmp_path / "dense.onnx", tmp_path / "slow.onnx", target="sparse-ort"
    )
    assert len(without.sparse_layers) == 2
    report = pack_onnx(
        tmp_path / "dense.onnx",
        tmp_path / "fast.onnx",
        target="sparse-ort",
        measure=not autotune,
        autotune=autotune,
    )
    assert report.sparse_layers == ()
    assert "0 of 2 layers skip their zeros" in report.verdict
    assert any(
        note.startswith("given back: 2 layers, the file would have been")
        for note in report.notes
    )
    choice = json.loads(get_metadata(onnx.load(tmp_path / "fast.onnx"))["choice"])
    assert choice["by"] == "measurement"
    assert (
        choice["whole_model"]["ratio_of_estimate"] > 1 == choice["whole_model"]["ratio"]
    )
    assert sorted(choice["whole_model"]["given_back"]) == ["w0", "w1"]


@pytest.mark.sweep
def test_exports_are_measured_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "estimate", partial(everything))
    report = sparsify_fx.export(
        net(0.2), tmp_path / "net.onnx", X, target="sparse-ort", measure=True
    )
    assert report.sparse_layers == ()
    assert any(note.startswith("given back: ") for note in report.notes)
    assert report.speed is not None


def test_what_cannot_be_timed_is_chosen_by_estimate(tmp_path: Path) -> None:
    model = products(0.02)
    model.graph.input[0].type.tensor_type.shape.dim[
        1
    ].dim_value = 7  # no input fits the weight
    onnx.save(model, tmp_path / "dense.onnx")
    report = pack_onnx(
        tmp_path / "dense.onnx", tmp_path / "a.onnx", target="sparse-ort", measure=True
    )
    assert any(
        note.startswith("layers were chosen by estimate alone: ")
        for note in report.notes
    )
