"""`optimize`: the runner, its checks and its proof; and `export`, which runs it."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from rich.console import Console
from torch import nn

import sparsify_fx
from sparsify_fx.errors import ExportError, PassError, PassWarning
from sparsify_fx.onnx_export.tracing import clean
from sparsify_fx.onnx_tools.outside import count_bytes
from sparsify_fx.passes.onnx_graph import (
    PASSES,
    GraphPass,
    PassRow,
    optimize,
    passes_table,
)
from sparsify_fx.passes.onnx_graph.channels.passes import remove_dead_channels
from sparsify_fx.passes.onnx_graph.macs import count_channels, count_macs
from sparsify_fx.passes.onnx_graph.proof import (
    Feed,
    difference,
    proof_feeds,
    sensitivity,
)
from tests.passes.onnx_graph.common import (
    distance,
    kinds,
    make,
    node,
    normal,
    run,
    shapes,
)

PADS = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}


def random_feeds(model: onnx.ModelProto, seed: int) -> list[Feed]:
    """The first inputs that a proof tries."""
    return list(islice(proof_feeds(model, None, seed), 5))


def dead_net() -> onnx.ModelProto:
    """Two convolutions with a norm and two dead channels between them."""
    weight = normal(6, 3, 3, 3)
    weight[[1, 4]] = 0
    nodes = [
        *(
            node("Conv", "x a", "h", **PADS),
            node("BatchNormalization", "h s b m v", "i"),
            node("Relu", "i", "j"),
        ),
        *(node("Identity", "j", "k"), node("Conv", "k c", "y", kernel_shape=[3, 3])),
    ]
    vectors = {
        "s": normal(6),
        "b": normal(6, seed=1),
        "m": normal(6, seed=2),
        "v": np.ones(6, np.float32),
    }
    return make(nodes, {"a": weight, "c": normal(4, 6, 3, 3), **vectors})


def test_rows_add_up_to_what_is_gone() -> None:
    model = dead_net()
    before = model.SerializeToString(deterministic=True)
    smaller, rows = optimize(model)
    assert model.SerializeToString(deterministic=True) == before
    assert kinds(smaller) == ["Conv", "Relu", "Conv"]
    assert shapes(smaller)["a"] == (4, 3, 3, 3)
    by_name = {row.name: row for row in rows}
    assert list(by_name) == [one.name for one in PASSES]
    assert (by_name["dead-channels"].channels, by_name["fold-batch-norm"].nodes) == (
        2,
        1,
    )
    assert by_name["dead-channels"].macs == 2 * 9 * (3 * 64 + 4 * 36)
    for field, count in (
        ("channels", count_channels),
        ("macs", count_macs),
        ("bytes", count_bytes),
    ):
        assert sum(getattr(row, field) for row in rows) == count(model) - count(smaller)
    assert distance(model, smaller, normal(2, 3, 8, 8)) < 1e-6


def test_nothing_to_do_gives_the_same_object() -> None:
    nodes = [node("Conv", "x a", "h", **PADS), node("Relu", "h", "y")]
    model = make(nodes, {"a": normal(4, 3, 3, 3)})
    same, rows = optimize(model)
    assert same is model
    assert all(row == PassRow(row.name, 0, 0, 0, 0, 0) for row in rows)
    assert passes_table(rows) is None


def test_a_dynamic_batch_stays_dynamic() -> None:
    smaller, _ = optimize(dead_net())
    for batch in (1, 5):
        assert run(smaller, normal(batch, 3, 8, 8))[0].shape == (batch, 4, 6, 6)


def test_convolutions_keep_a_multiple_of_four_channels() -> None:
    """onnxruntime needs twice as long for 29 channels as for 28 or 32."""
    weight = normal(32, 3, 3, 3)
    weight[[3, 7, 11]] = 0
    nodes = [
        node("Conv", "x a", "h", **PADS),
        node("Relu", "h", "i"),
        node("Conv", "i b", "y", **PADS),
    ]
    model = make(nodes, {"a": weight, "b": normal(4, 32, 3, 3)})
    assert optimize(model)[0] is model
    assert remove_dead_channels(model, multiple=1)
    assert shapes(model)["a"] == (29, 3, 3, 3)
    weight[[12, 20]] = 0
    smaller, _ = optimize(make(nodes, {"a": weight, "b": normal(4, 32, 3, 3)}))
    assert shapes(smaller) == {"a": (28, 3, 3, 3), "b": (4, 28, 3, 3)}
    assert optimize(smaller)[0] is smaller


def wrong(name: str, kind: str) -> GraphPass:
    """A pass that turns every Relu into another operator."""

    def change(model: onnx.ModelProto) -> bool:
        found = [item for item in model.graph.node if item.op_type == "Relu"]
        for item in found:
            item.op_type = kind
        return bool(found)

    return GraphPass(name, change, exact=True)


def test_a_pass_that_changes_the_outputs_is_left_out_and_named() -> None:
    passes = (*PASSES, wrong("careless", "Abs"))
    with pytest.warns(
        PassWarning,
        match=r"careless: left out .* changed output 'y' by .* expected 1e-05",
    ):
        smaller, rows = optimize(dead_net(), passes)
    assert kinds(smaller) == ["Conv", "Relu", "Conv"]
    assert [(row.name, row.changes) for row in rows if row.note] == [("careless", 0)]
    assert rows[:-1] == optimize(dead_net())[1]
    table = passes_table(rows)
    assert table is not None
    assert "careless left out: changed output 'y'" in str(table.caption)
    assert kinds(optimize(dead_net(), passes, prove=False)[0]) == [
        "Conv",
        "Abs",
        "Conv",
    ]


def steep_net(scale: float = 1e3) -> onnx.ModelProto:
    """A scale that folds into the convolution before it, and a sine that makes much of the last bit."""
    nodes = [
        node("Conv", "x a", "h", **PADS),
        node("Mul", "h s", "k"),
        node("Sin", "k", "z"),
        node("Relu", "z", "y"),
    ]
    return make(nodes, {"a": normal(4, 3, 3, 3), "s": scale})


def test_a_model_that_rounding_alone_changes_as_much_passes() -> None:
    model = steep_net()
    smaller, _ = optimize(model)
    assert kinds(smaller) == ["Conv", "Sin", "Relu"]
    feeds = random_feeds(model, 0)
    assert (
        1e-5 < difference(model, smaller, feeds) < 10 * sensitivity(model, feeds) < 0.1
    )
    with pytest.warns(
        PassWarning,
        match=r"careless: .* changed output 'y' by [0-9.]+ of its largest entry; expected 0.0",
    ):
        again, _ = optimize(model, (*PASSES, wrong("careless", "Abs")))
    assert again == smaller


def test_a_chaotic_model_proves_nothing_and_comes_back_as_it_was() -> None:
    model = steep_net(1e7)
    assert sensitivity(model, random_feeds(model, 0)) > 0.1
    with pytest.warns(
        PassWarning,
        match=r"fold-batch-norm: left out .* rounding or chance change them as much",
    ):
        same, rows = optimize(model)
    assert same is model
    assert {row.name for row in rows if row.note} == {"fold-batch-norm"}


def test_the_last_places_of_weights_matter_little_elsewhere() -> None:
    model = dead_net()
    assert 0 < sensitivity(model, random_feeds(model, 0)) < 1e-6


def test_a_pass_that_breaks_the_graph_is_left_out_and_named() -> None:
    def cut(model: onnx.ModelProto) -> bool:
        del model.graph.node[0]
        return True

    def rename(model: onnx.ModelProto) -> bool:
        model.graph.output[0].name = "z"
        return True

    def shrink(model: onnx.ModelProto) -> bool:
        weight = model.graph.initializer[0]
        weight.CopyFrom(onnx.numpy_helper.from_array(normal(5, 3, 3, 3), weight.name))
        return True

    def fail(model: onnx.ModelProto) -> bool:
        raise IndexError("beyond the end")

    for change, complaint in (
        (cut, r"broken: .* reads \['h'\], which nothing makes"),
        (rename, "broken: .* expected the inputs and outputs to stay"),
        (shrink, "broken: .* the shapes no longer fit"),
        (fail, "broken: .* it failed: IndexError: beyond the end"),
    ):
        model = dead_net()
        with pytest.warns(PassWarning, match=complaint):
            same, rows = optimize(model, [GraphPass("broken", change, exact=True)])
        assert same is model
        assert rows[0].note.startswith("left out: ")


def test_a_pass_that_never_rests_is_named() -> None:
    model = dead_net()
    with pytest.warns(PassWarning, match="restless: .* no fixed point after"):
        assert (
            optimize(model, [GraphPass("restless", lambda model: True, exact=True)])[0]
            is model
        )


def test_the_proof_needs_inputs_that_the_model_takes() -> None:
    """An index that random zeros and ones do not hit."""
    nodes = [
        node("Identity", "x", "a"),
        node("Cast", "a", "i", to=7),
        node("Sub", "i big", "j"),
        node("Gather", "t j", "y"),
    ]
    model = make(nodes, {"big": np.array(100), "t": normal(3, 2)}, x=("N",))
    with pytest.raises(
        PassError,
        match=r"runs on none of \d+ inputs .*give inputs= that it takes, or prove=False",
    ):
        optimize(model)
    smaller, _ = optimize(model, inputs={"x": np.array([100, 102], np.float32)})
    assert kinds(smaller) == ["Cast", "Sub", "Gather"]


def test_a_model_that_does_not_load_cannot_be_proven() -> None:
    model = dead_net()
    model.graph.node[2].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(
        PassError,
        match=r"onnxruntime [\d.]+ cannot load the model as it is given.*prove=False",
    ):
        optimize(model)
    assert kinds(optimize(model, prove=False)[0]) == ["Conv", "Relu", "Conv"]


def test_random_inputs_fit_other_types_and_sizes() -> None:
    model = make([node("Relu", "x", "y")], {}, x=("N", 3, "H", "W"))
    model.graph.input.append(
        helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["N", 7])
    )
    shapes_tried = [
        (feed["x"].shape, feed["ids"].shape, feed["ids"].dtype)
        for feed in random_feeds(model, 0)
    ]
    assert shapes_tried[0] == ((2, 3, 32, 32), (2, 7), np.int64)
    assert shapes_tried[-1][0] == (2, 3, 64, 64)
    assert difference(model, model, random_feeds(model, 0)) == 0


def test_difference_sees_shapes_types_and_nan() -> None:
    x = [{"x": np.array([[1, -1]], np.float32)}]
    relu, log = (
        make([node(kind, "x", "y")], {}, x=("N", 2)) for kind in ("Relu", "Log")
    )
    wide = make([node("Concat", "x x", "y", axis=1)], {}, x=("N", 2))
    assert difference(relu, log, x) == difference(relu, wide, x) == np.inf
    assert difference(relu, make([node("Abs", "x", "y")], {}, x=("N", 2)), x) == 1.0


def trained_like() -> nn.Module:
    """Convolutions with norms of both signs; some filters and some columns are zero."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(
            nn.Conv2d(3, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ),
        *(
            nn.Conv2d(16, 24, 3),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(24 * 4, 30),
            nn.ReLU(),
        ),
        nn.Linear(30, 10),
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(value)
    with torch.no_grad():
        model[0].weight[:4] = 0
        model[0].weight[9:13] = 0
        model[4].weight[5:13] = 0
        model[8].weight[:, -8:] = 0
        model[8].weight[20:] = 0
    return model


@pytest.mark.slow
def test_export_runs_the_passes_and_reports_them(tmp_path: Path) -> None:
    model, x = trained_like(), torch.randn(2, 3, 8, 8)
    with_passes = sparsify_fx.export(model, tmp_path / "a.onnx", x, encoding="dense")
    without = sparsify_fx.export(
        model, tmp_path / "b.onnx", x, encoding="dense", optimize=False
    )
    removed = {row.name: row.channels for row in with_passes.passes if row.channels}
    assert removed["dead-channels"] >= 20
    assert without.passes == ()
    assert without.bytes_file - with_passes.bytes_file == sum(
        row.bytes for row in with_passes.passes
    )
    assert (tmp_path / "a.onnx").stat().st_size == with_passes.bytes_file
    assert (
        json.loads(json.dumps(with_passes.to_dict()))["passes"][0]["name"]
        == PASSES[0].name
    )
    table, console = (
        with_passes.passes_table(),
        Console(width=100, record=True, quiet=True),
    )
    assert table is not None
    console.print(table)
    assert without.passes_table() is None
    before, after = (onnx.load(str(tmp_path / name)) for name in ("b.onnx", "a.onnx"))
    assert distance(before, after, normal(3, 3, 8, 8)) < 1e-6
    assert list(before.graph.input) == list(after.graph.input)
    assert list(before.graph.output) == list(after.graph.output)


@pytest.mark.slow
def test_export_of_a_model_without_dead_channels_keeps_its_bytes(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 4),
    )
    for name, on in (("a.onnx", True), ("b.onnx", False)):
        sparsify_fx.export(model, tmp_path / name, torch.randn(1, 3, 8, 8), optimize=on)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.slow
def test_export_says_how_to_do_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(model: onnx.ModelProto, **given: object) -> object:
        return optimize(model, (wrong("careless", "Abs"),), **given)

    monkeypatch.setattr(clean, "optimize", careless)
    with pytest.warns(PassWarning, match=r"careless: left out"):
        report = sparsify_fx.export(
            trained_like(), tmp_path / "a.onnx", torch.randn(2, 3, 8, 8)
        )
    assert (
        "changed output"
        in json.loads(json.dumps(report.to_dict()))["passes"][0]["note"]
    )

    def refused(model: onnx.ModelProto, **given: object) -> object:
        raise PassError("passes: the model runs on none of 1 inputs")

    monkeypatch.setattr(clean, "optimize", refused)
    with pytest.raises(
        ExportError, match=r"runs on none .*optimize=False \(--no-optimize\)"
    ):
        sparsify_fx.export(trained_like(), tmp_path / "b.onnx", torch.randn(2, 3, 8, 8))
    assert [file.name for file in tmp_path.iterdir()] == ["a.onnx"]
