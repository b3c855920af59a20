"""`check`: what a file holds, and verdicts that are what `benchmarks.tools` saw of each tool."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from typer.testing import CliRunner

from benchmarks import tools as measured
from benchmarks import tools_page
from benchmarks.tool_files import KINDS, make
from benchmarks.tool_runners import TOOLS as RUNNERS
from sparsify_fx import check_file
from sparsify_fx.cli import app
from sparsify_fx.errors import ExportError, UnknownNameError
from sparsify_fx.onnx_export import export, pack_onnx, unpack_onnx
from sparsify_fx.onnx_export.tools import traits_of
from sparsify_fx.onnx_export.tools.rows import TOOLS
from sparsify_fx.onnx_export.tools.tool import VERDICTS, Case, Tool
from sparsify_fx.onnx_export.tools.traits import TRAITS
from tests.common import SWEEP
from tests.onnx_export.arrays import matmul_with, random_tensor, save

SEEN: dict[str, Any] = json.loads(measured.RAW.read_text(encoding="utf-8"))
VERDICT_OF = {
    "works": "works", "slow": "slow", "ignored": "ignores", "undone": "undoes", "refused": "refuses",
    "wrong": "breaks", "died": "breaks",
}  # fmt: skip
FAST = ("dense", "dense, external data", "coo, linear", "gap int8", "gap, functions", "gap, MaxUnpool",
    "gap fp32-packed, version 0.1")  # fmt: skip


def pairs() -> Iterator[tuple[str, str]]:
    for tool, row in SEEN["rows"].items():
        for kind in row["kinds"]:
            yield tool, kind


def test_verdicts_are_what_the_tools_were_seen_to_do() -> None:
    told, seen = {}, {}
    for tool, kind in pairs():
        outcome = SEEN["rows"][tool]["kinds"][kind]["outcome"]
        seen[tool, kind] = VERDICT_OF[outcome]
        told[tool, kind] = TOOLS[tool].verdict(SEEN["kinds"][kind]).verdict
    assert told == seen


def test_rows_name_the_packages_and_versions_that_were_seen() -> None:
    assert set(TOOLS) == set(SEEN["rows"]) == set(measured.LIVES_IN) == set(RUNNERS)
    for name, row in SEEN["rows"].items():
        package = measured.LIVES_IN[name][1]
        assert (TOOLS[name].package, TOOLS[name].checked) == (package, row["version"])
        assert set(row["kinds"]) == set(SEEN["kinds"]) == set(KINDS)


def test_no_tool_is_silently_wrong_on_sparse_initializers() -> None:
    """Else `auto` must not choose `coo`, and docs/deployment.md must not say what it says."""
    found = {
        SEEN["rows"][tool]["kinds"][kind]["outcome"]
        for tool, kind in pairs()
        if "coo" in SEEN["kinds"][kind]
    }
    assert "works" in found
    assert "wrong" not in found


@pytest.mark.parametrize("tool", TOOLS.values(), ids=lambda each: each.name)
def test_rows_speak_of_known_traits_and_verdicts(tool: Tool) -> None:
    for case in tool.cases:
        assert case.words <= set(TRAITS)
        assert case.verdict in VERDICTS
    # A case that no file which was measured is in would be a guess.
    for case in tool.cases:
        assert any(case.covers(traits) for traits in SEEN["kinds"].values()), case
    assert tool.what


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=() if k in FAST else SWEEP) for k in KINDS]
)
@pytest.mark.filterwarnings("ignore")
def test_traits_are_those_of_the_files_that_were_measured(
    tmp_path: Path, kind: str
) -> None:
    assert sorted(traits_of(make(kind, tmp_path / "made"))) == SEEN["kinds"][kind]


def test_pages_have_the_tables_of_the_results(tmp_path: Path) -> None:
    for page in (tools_page.PAGE, tools_page.ALL):
        text = page.read_text(encoding="utf-8")
        columns = (
            tools_page.ENCODINGS if page == tools_page.PAGE else {"dense": "dense"}
        )
        assert tools_page.table(SEEN["rows"], columns).splitlines()[-1][:40] in text
    page = tools_page.PAGE.read_text(encoding="utf-8")
    assert tools_page.table(SEEN["rows"], tools_page.ENCODINGS) in page
    assert tools_page.table(SEEN["rows"], tools_page.SPECIAL) in page


def packed(tmp_path: Path, **options: Any) -> Path:
    weight = random_tensor((300, 260), 0.1, 0, 1)
    source = save(matmul_with(weight), tmp_path / "dense.onnx")
    pack_onnx(source, tmp_path / "packed.onnx", **options)
    return tmp_path / "packed.onnx"


def test_a_row_more_is_a_tool_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = Tool("toy", "a toy", "toys", "1.0", (Case("gap", "breaks", "it dies"),))
    monkeypatch.setitem(TOOLS, "toy", toy)
    file = packed(tmp_path, encoding="gap")
    (row,) = check_file(file, tools=["toy"]).tools
    assert (row.verdict, row.why, row.checked) == ("breaks", "it dies", "toys 1.0")
    assert check_file(file).tools[-1] == row
    done = CliRunner().invoke(app, ["check", str(file), "--for", "toy"])
    assert done.exit_code == 1, done.output
    assert "it dies" in done.output
    unpack_onnx(file, tmp_path / "plain.onnx")
    done = CliRunner().invoke(
        app, ["check", str(tmp_path / "plain.onnx"), "--for", "toy"]
    )
    assert done.exit_code == 0, done.output


def test_the_command_tells_and_ends_well_where_no_tool_was_asked_for(
    tmp_path: Path,
) -> None:
    file = packed(tmp_path, encoding="coo")
    done = CliRunner().invoke(app, ["check", str(file), "--json", str(tmp_path / "c")])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "c").read_text())
    assert found["traits"] == {"coo": 1}
    assert "onnxoptimizer" in found["failing"]
    assert "onnxruntime" not in found["failing"]
    assert "sparsify-fx unpack" in found["advice"]
    assert [row["tool"] for row in found["tools"]] == list(TOOLS)
    asked = ["--for", "onnxruntime", "--for", "onnxruntime-web"]
    assert CliRunner().invoke(app, ["check", str(file), *asked]).exit_code == 0
    done = CliRunner().invoke(app, ["check", str(file), *asked, "--for", "openvino"])
    assert done.exit_code == 1, done.output


def test_notes_tell_of_zeros_to_pack_and_of_their_signs(tmp_path: Path) -> None:
    weight = random_tensor((100, 100), 0.1, 0, 1)
    weight[weight == 0] = -0.0
    file = save(matmul_with(weight), tmp_path / "dense.onnx")
    zeros, signs = check_file(file).notes
    assert zeros.startswith("dense weights that are mostly zeros: 1 (")
    assert signs.startswith(f"{np.count_nonzero(weight == 0):,} zeros are -0.0")
    full = save(matmul_with(weight + np.float32(1)), tmp_path / "full.onnx")
    assert check_file(full).notes == ()


def test_what_cannot_be_checked_is_told(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="does not exist"):
        check_file(tmp_path / "nothing.onnx")
    torch.save({"fc.weight": torch.eye(4)}, tmp_path / "run.pt")
    with pytest.raises(ExportError, match=r"is a checkpoint \(torch\)"):
        check_file(tmp_path / "run.pt")
    file = packed(tmp_path)
    (tmp_path / "half.onnx").write_bytes(file.read_bytes()[:500])
    with pytest.raises(ExportError, match=r"truncated|damaged|whole"):
        check_file(tmp_path / "half.onnx")
    with pytest.raises(UnknownNameError, match="onnxsim"):
        check_file(file, tools=["onnxsimm"])
    done = CliRunner().invoke(app, ["check", str(file), "--for", "onnxsimm"])
    assert done.exit_code == 2
    assert CliRunner().invoke(app, ["check", "nothing.onnx"]).exit_code == 2


@pytest.mark.slow
def test_shape_inference_takes_exported_files_with_sparse_initializers(
    tmp_path: Path,
) -> None:
    """Exporters note the type of every weight; beside a sparse one that is a contradiction, at which onnx raises."""
    layer = torch.nn.Linear(64, 32)
    with torch.no_grad():
        layer.weight[:, 4:] = 0
    export(layer, tmp_path / "coo.onnx", torch.randn(1, 64), encoding="coo")
    model = onnx.load(tmp_path / "coo.onnx")
    (sparse,) = model.graph.sparse_initializer
    assert onnx.shape_inference.infer_shapes(model).graph.output[0].name
    # What onnx raised at: the exporter's own note.
    note = onnx.helper.make_tensor_value_info(
        sparse.values.name, onnx.TensorProto.FLOAT, list(sparse.dims)
    )
    model.graph.value_info.append(note)
    with pytest.raises(onnx.shape_inference.InferenceError):
        onnx.shape_inference.infer_shapes(model)
    onnx.save(model, tmp_path / "noted.onnx")
    unpack_onnx(tmp_path / "noted.onnx", tmp_path / "plain.onnx")
    weight = onnx.load(tmp_path / "plain.onnx").graph.initializer[0]
    assert np.count_nonzero(numpy_helper.to_array(weight)) <= 4 * 32


def test_one_tool_may_be_given_as_a_word(tmp_path: Path) -> None:
    report = check_file(packed(tmp_path), "openvino")
    assert [each.tool for each in report.tools] == ["openvino"]
