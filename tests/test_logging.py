"""Long operations say what they are at: to who asks, with logging or `-v`, and to nobody else."""

from __future__ import annotations

import logging
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner, Result

import sparsify_fx
from sparsify_fx.cli import app
from sparsify_fx.onnx_export import pack_onnx
from tests.fresh import run_fresh

ROOT = Path(__file__).parents[1]
LONG = (
    "train",
    "demo",
    "export",
    "pack",
    "unpack",
    "inspect",
    "analyze",
    "lab",
    "coverage",
)


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    """One matrix product, nine tenths zeros."""
    weight = numpy_helper.from_array(
        (torch.rand(64, 64) * (torch.rand(64, 64) > 0.9)).numpy(), "w"
    )
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64])
        for name in "xy"
    ]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        ends[:1],
        ends[1:],
        [weight],
    )
    onnx.save(
        helper.make_model(
            graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)]
        ),
        tmp_path / "d.onnx",
    )
    return tmp_path / "d.onnx"


def call(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(
        app, [str(argument) for argument in arguments]
    )


def test_pack_tells_its_steps_in_order(
    dense: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "sparsify_fx"):
        pack_onnx(dense, tmp_path / "p.onnx")
    told = [record.getMessage() for record in caplog.records]
    steps = (
        "reading",
        "storing 1 tensors as fp32, encoding auto",
        "checking every bit",
        "comparing the outputs",
    )
    places = [
        next(n for n, line in enumerate(told) if line.startswith(step))
        for step in steps
    ]
    assert places == sorted(places)
    assert {record.name.split(".")[0] for record in caplog.records} == {"sparsify_fx"}


def test_a_training_loop_can_follow_every_event(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sparsify_fx.apply(
        model := torch.nn.Linear(20, 20), "magnitude", sparsity=0.5, include=[""]
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=2, steps_per_epoch=2)
    with caplog.at_level(logging.DEBUG, "sparsify_fx"):
        for _ in range(scheduler.steps):
            model(torch.randn(4, 20)).sum().backward()
            optimizer.step()
            scheduler.step()
    assert any(": prune " in record.getMessage() for record in caplog.records)


def test_nothing_is_shown_without_v_and_lines_on_stderr_with_it(
    dense: Path, tmp_path: Path
) -> None:
    quiet = call("pack", dense, tmp_path / "a.onnx", "--json", "-")
    told = call("pack", dense, tmp_path / "b.onnx", "--json", "-", "-v")
    assert quiet.stderr.count("sparsify_fx.") == 0
    assert "sparsify_fx.onnx_export.packing: reading" in told.stderr
    assert told.stdout.replace("b.onnx", "a.onnx") == quiet.stdout  # the document alone
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert logging.getLogger("sparsify_fx").handlers == []


@pytest.mark.slow
def test_the_library_alone_shows_nothing(dense: Path, tmp_path: Path) -> None:
    program = f"from sparsify_fx.onnx_export import pack_onnx; pack_onnx({str(dense)!r}, {str(tmp_path / 'p.onnx')!r})"
    done = run_fresh(program)
    assert done.returncode == 0
    assert done.stdout == done.stderr == ""


def test_what_a_name_holds_cannot_move_the_cursor(dense: Path, tmp_path: Path) -> None:
    told = call(
        "pack",
        dense.rename(tmp_path / "no\x1b[2J.onnx"),
        tmp_path / "p.onnx",
        "--verbose",
    )
    assert r"no\x1b[2J.onnx" in told.stderr
    assert "\x1b[2J" not in told.stderr


@pytest.mark.parametrize("command", LONG)
def test_every_long_command_has_the_option(command: str) -> None:
    assert "--verbose" in call(command, "--help").stdout
