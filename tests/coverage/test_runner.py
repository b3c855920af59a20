"""A sweep goes on from its file, and its pages tell what stands there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from typer.testing import CliRunner, Result

from sparsify_fx.cli import app
from sparsify_fx.coverage.checks import CHECKS
from sparsify_fx.coverage.page import introduction
from sparsify_fx.coverage.process import Limits
from sparsify_fx.coverage.report import markdown, summary_rows
from sparsify_fx.coverage.results import (
    FAILED,
    NO_EXPORT,
    PASSED,
    ModelResult,
    Outcome,
    read_results,
    versions,
    write_results,
)
from sparsify_fx.coverage.runner import sweep
from sparsify_fx.coverage.suites import subjects
from sparsify_fx.errors import CheckpointError

pytestmark = pytest.mark.slow

SMALL = subjects("timm", names=["test_vit", "test_resnet"])


def call(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(
        app, ["coverage", *map(str, arguments)]
    )


def swept(path: Path, checks: list[str], **options: Any) -> list[str]:
    """The names of the models that were examined now."""
    seen: list[str] = []
    sweep(
        SMALL,
        checks,
        Limits(),
        path=path,
        progress=lambda n, count, result: seen.append(result.name),
        **options,
    )
    return seen


@pytest.mark.sweep
def test_only_what_is_missing_is_examined(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    assert len(swept(path, ["keys"])) == 2
    assert swept(path, ["keys"]) == []
    assert len(swept(path, ["keys", "forward"])) == 2
    assert all(
        list(result.checks) == ["keys", "forward"] for result in read_results(path)
    )
    write_results(
        path, [result for result in read_results(path) if result.name != "test_vit"]
    )
    assert swept(path, ["keys", "forward"]) == ["test_vit"]


@pytest.mark.sweep
def test_two_sweeps_do_not_write_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    with FileLock(f"{path}.lock"):
        refused = call(
            "--suite", "timm", "--models", "test_vit", "--no-onnx", "--json", path
        )
    assert refused.exit_code == 2
    assert f"another sweep writes to {path}" in refused.output.replace("\n", "")
    assert not path.exists()
    assert len(swept(path, ["keys"])) == 2


@pytest.mark.sweep
def test_failures_are_repeated_when_wanted(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    swept(path, ["keys"])
    first, second = read_results(path)
    first.checks["keys"] = Outcome(FAILED, "too slow")
    write_results(path, [first, second])
    assert swept(path, ["keys"]) == []
    assert swept(path, ["keys"], again=True) == [first.name]
    assert all(result.failures() == {} for result in read_results(path))


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(CheckpointError, match="no coverage results"):
        read_results(path)
    path.write_text(
        json.dumps({"versions": {**versions(), "torch": "1.0"}, "results": []}),
        encoding="utf-8",
    )
    with pytest.raises(CheckpointError, match=r"made with torch 1\.0"):
        read_results(path)
    assert read_results(path, same_versions=False) == []


@pytest.mark.sweep
def test_the_command_writes_results_and_goes_on(tmp_path: Path) -> None:
    path, page = tmp_path / "found.json", tmp_path / "page.md"
    arguments = ["--suite", "timm", "--models", "test_vit", "--no-onnx", "--json", path]
    first = call(*arguments, "--markdown", page)
    assert first.exit_code == 0, first.output
    assert "1/1 test_vit: passed" in first.output
    assert list(json.loads(path.read_text())["results"][0]["checks"]) == [
        name for name in CHECKS if name != "onnx"
    ]
    assert "| test_vit | vision_transformer |" in page.read_text(encoding="utf-8")
    assert "1/1 test_vit" not in call(*arguments).output
    shown = call("--results", path, "--json", "-")
    assert json.loads(shown.stdout)["results"][0]["name"] == "test_vit"


def test_a_failed_check_gives_exit_code_1_and_its_reason(tmp_path: Path) -> None:
    arguments = [
        "--suite",
        "timm",
        "--models",
        "test_vit",
        "--no-onnx",
        "--memory-limit",
        "0.1",
    ]
    done = call(*arguments)
    assert done.exit_code == 1
    assert "more than 0.1 GB of memory" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either --suite"),
        (("--suite", "tim"), "did you mean 'timm'"),
        (("--suite", "timm", "--models", "resnet_18"), "unknown timm model"),
        (("--suite", "timm", "--shard", "5/4"), "--shard 5/4 must be i/n"),
        (("--suite", "timm", "--max-parameters", "10"), "raise --max-parameters"),
        (("--results", "nowhere.json"), "no coverage results"),
    ],
)
def test_wrong_options_are_named(arguments: tuple[str, ...], message: str) -> None:
    done = call(*arguments)
    assert done.exit_code == 2
    assert message in done.output


def test_the_documentation_says_what_the_checks_are_now() -> None:
    page = (Path(__file__).parents[2] / "docs/coverage.md").read_text(encoding="utf-8")
    assert page.startswith(introduction())


def test_the_page_counts_exactly_and_keeps_every_reason() -> None:
    def model(name: str, state: str, note: str = "") -> ModelResult:
        return ModelResult(
            "timm",
            name,
            "nets",
            1_500_000,
            "2x3x64x64",
            7,
            {"onnx": Outcome(state, note)},
        )

    found = [
        model("a", PASSED),
        model("b", FAILED, "wrong | by `0.1`"),
        model("c", NO_EXPORT, "no such operator"),
    ]
    assert summary_rows(found, ["onnx"]) == [
        ("timm", "onnx", "1 of 2 (50.0 %)", "1 have no dense export")
    ]
    page = markdown(found, ["onnx"], {"torch": "2"}, "# Title", ["timm d"])
    assert "Not examined yet, and in none of the numbers: timm d." in page
    assert "| b | onnx | `wrong / by '0.1'` |" in page
    assert "| c | onnx | `no such operator` |" in page
    assert "| a | nets | 1.5 M | 2x3x64x64 | 7 | yes |" in page
