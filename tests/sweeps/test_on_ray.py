"""Sweeps on Ray give what they give on one machine; what is missing is told in words."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sparsify_fx.errors import SweepError
from sparsify_fx.sweeps.on_ray import RayEngine
from sparsify_fx.sweeps.plan import TrialConfig
from tests.sweeps.common import ROOT, call, write_sweep


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SweepError, match=r"pip install 'sparsify_fx\[ray\]'"):
        RayEngine(TrialConfig(), "auto")


def test_a_cluster_has_its_own_number_of_workers(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path)
    options = ("--ray", "auto", "--workers", "2")
    code, _, err = call("sweep", sweep, *options, folder=tmp_path)
    assert code == 2
    assert "a cluster has its own number" in err


def test_where_no_cluster_is(tmp_path: Path) -> None:
    """At once, and nothing is trained."""
    sweep = write_sweep(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]  # nobody else listens there, nor do we
        address = f"127.0.0.1:{port}"
        code, _, err = call("sweep", sweep, "--ray", address, folder=tmp_path)
    assert code == 2
    assert f"error: no Ray cluster at {address}: " in err
    assert not list((tmp_path / "runs").glob("*/"))


@pytest.mark.sweep
@pytest.mark.slow
def test_the_same_tables_as_on_one_machine(tmp_path: Path) -> None:
    """A cluster that is started for the sweep; a donor, and a trial that fails, among the trials."""
    take = {"run": {"method": "imp"}, "take": ["mask"]}
    labels: dict[str, Any] = {"lrr": None, "imp": None}
    labels["on-imp"] = {"method": "random", "init_from": take}
    labels["diverges"] = {"method": "lrr", "optimizer.lr": 1e30}
    sweep = write_sweep(tmp_path, method=labels, seed=[0, 1], trial={"gpus": 0})
    told = []
    for runs, options in (("runs", ()), ("on-ray", ("--ray", "local"))):
        code, _, err = call("sweep", sweep, "--runs", runs, *options, folder=tmp_path)
        assert code == 1, err
        where = ("--runs", runs, "--out", f"{runs}-tables", "--json", "-")
        code, out, err = call("compare", sweep, *where, folder=tmp_path)
        assert code == 0, err
        told.append(json.loads(out))
    here, there = told
    assert there["cells"] == here["cells"]
    assert there["differences"] == here["differences"]
    assert len(there["missing"]) == 2
    assert all("loss became" in line for line in there["missing"])
    for name in ("cells.csv", "differences.csv", "compare.tex", "accuracy.svg"):
        files = [tmp_path / f"{runs}-tables" / name for runs in ("runs", "on-ray")]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
@pytest.mark.sweep
def test_kills_of_sweeps_and_of_a_node(tmp_path: Path) -> None:
    """The small form of what docs/results/sweep_kills.json reports."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "sweep_kills.py"), "--small"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])["equal"]
