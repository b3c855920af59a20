"""result.json says where it comes from; those of older versions are read as they are."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from sparsify_fx.train.provenance import Provenance, git_commit, versions
from sparsify_fx.train.result import Result
from tests.train.common import quietly, small, write_images

GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]


def commit(folder: Path) -> str:
    subprocess.run([*GIT, "init", "-q"], cwd=folder, check=True)
    (folder / "a").write_text("a")
    subprocess.run([*GIT, "add", "a"], cwd=folder, check=True)
    subprocess.run([*GIT, "commit", "-q", "-m", "a"], cwd=folder, check=True)
    head = ["git", "rev-parse", "HEAD"]
    return subprocess.run(
        head, cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_result_names_model_data_seed_versions_and_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = commit(tmp_path)
    monkeypatch.chdir(tmp_path)
    data = write_images(tmp_path / "mine.npz")
    result = quietly(small(data, "epochs=1", "seed=3"), tmp_path / "runs")
    content = json.loads((result.path / "result.json").read_text())
    found = content["provenance"]
    assert (found["model"], found["seed"]) == ("lenet300", 3)
    assert found["data"] == f"npz:{data}"
    digest = json.loads((result.path / "data.json").read_text())["digest"]
    assert found["data_digest"] == digest
    assert found["versions"]["torch"] == torch.__version__
    assert found["commit"] == head  # files that git does not know are no change
    assert Result.from_dict(content) == result

    del content["provenance"]
    assert Result.from_dict(content).provenance == Provenance()


def test_commits(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None
    subprocess.run([*GIT, "init", "-q"], cwd=tmp_path, check=True)
    assert git_commit(tmp_path) is None
    head = commit(tmp_path)
    subprocess.run([*GIT, "tag", "v1"], cwd=tmp_path, check=True)
    assert git_commit(tmp_path) == head
    (tmp_path / "a").write_text("b")
    assert git_commit(tmp_path) == f"{head}-dirty"


def test_versions_are_those_that_are_installed() -> None:
    assert {"python", "torch", "numpy"} <= set(versions())
