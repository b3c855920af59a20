"""Sweeps on this machine: nothing is lost by kills, failures are told, runs are taken from by name."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from sparsify_fx.errors import SweepError
from sparsify_fx.sweeps import TrialConfig, load_sweep, trials_of
from sparsify_fx.sweeps.local import LocalEngine, gpu_slots
from sparsify_fx.train.run_folder import open_folder, run_path
from tests.sweeps.common import call, start, write_sweep

# Registered by --plugin in every trial's process; PLACE is a folder that outlives it.
PLUGIN = """
import os, signal
from pathlib import Path
from sparsify_fx.initializations import initialization

def first_time(name):
    try:
        (Path(os.environ["PLACE"]) / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True

@initialization("killed-once")
def killed_once(model, generator):
    if first_time("killed"):
        os.kill(os.getpid(), signal.SIGKILL)

@initialization("odd-once")
def odd_once(model, generator):
    if first_time("odd"):
        raise RuntimeError("odd")

@initialization("never")
def never(model, generator):
    raise RuntimeError("this can never work")
"""


def record(folder: Path, name: str = "small") -> dict[str, dict[str, Any]]:
    content = json.loads((folder / "runs" / f"{name}.sweep.json").read_text())
    return {entry["name"]: entry for entry in content["trials"]}


def results(folder: Path) -> dict[str, Any]:
    """What came out of every run, but for the time that it took."""
    odd = {"seconds", "checkpoint_seconds", "folder", "provenance"}
    return {
        path.parent.name: {
            key: value
            for key, value in json.loads(path.read_text()).items()
            if key not in odd
        }
        for path in (folder / "runs").glob("*/result.json")
    }


def children(pid: int) -> list[int]:
    """The processes that one started, and those that they started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found += [int(status.parent.name), *children(int(status.parent.name))]
    return found


def running(pids: list[int]) -> list[int]:
    alive = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            alive.append(pid)
    return alive


def test_failures_are_tried_again_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACE", str(tmp_path))
    (tmp_path / "odd.py").write_text(PLUGIN)
    names = ("killed-once", "odd-once", "never")
    take = {"run": {"method": "never"}, "take": ["mask"]}
    labels: dict[str, Any] = {n: {"method": "lrr", "init": n} for n in names}
    labels["takes"] = {"method": "random", "init_from": take}
    labels["diverges"] = {"method": "lrr", "optimizer.lr": 1e30}
    sweep = write_sweep(tmp_path, method=labels, trial={"retries": 1})
    code, out, err = call("sweep", sweep, "--plugin", "odd.py", folder=tmp_path)
    assert code == 1, err
    found = {name.split()[0]: entry for name, entry in record(tmp_path).items()}
    assert {n: (e["state"], e["attempts"]) for n, e in found.items()} == {
        "killed-once": ("finished", 2),
        "odd-once": ("finished", 2),
        "never": ("failed", 2),
        "takes": ("failed", 0),
        # Same seed, same bits: it would diverge again.
        "diverges": ("failed", 1),
    }
    assert (
        "killed-once sparsity=0.36 failed and is tried again: its process died" in err
    )
    assert "this can never work" in found["never"]["error"]
    assert "takes from never sparsity=0.36, which failed" in found["takes"]["error"]
    assert "failed after 2 attempts: never sparsity=0.36" in out
    assert "Traceback" not in out + err


def test_runs_are_taken_from_by_method_and_seed(tmp_path: Path) -> None:
    take = {"run": {"method": "imp"}, "take": ["mask", "signs"]}
    labels = {"on-imp": {"method": "random", "init_from": take}}
    sweep = write_sweep(tmp_path, method=labels, seed=[0, 1])
    code, out, err = call("sweep", sweep, folder=tmp_path)
    assert code == 0, err
    entries = record(tmp_path)
    for seed in (0, 1):
        config = tmp_path / "runs" / entries[f"on-imp sparsity=0.36 seed={seed}"]["run"]
        donor = entries[f"imp sparsity=0.36 seed={seed}"]["run"]
        assert f"run: {tmp_path}/runs/{donor}" in (config / "config.yaml").read_text()
    # A record that moved with its folder is compared all the same, and the donors are in no table.
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    path = tmp_path / "elsewhere" / "small.sweep.json"
    code, out, err = call("compare", path, "--json", "-", folder=tmp_path)
    assert code == 0, err
    told = json.loads(out)
    assert [(row["method"], row["n"]) for row in told["cells"]] == [("on-imp", 2)]
    provenance = told["runs"][0]["provenance"]
    assert provenance["seed"] == 0
    assert len(provenance["data_digest"]) > 10


@pytest.mark.sweep
def test_a_second_process_waits_its_turn(tmp_path: Path) -> None:
    """The sweep is refused, a run folder waited for."""
    sweep = write_sweep(tmp_path, method=["lrr"])
    (trial,) = trials_of(load_sweep(sweep)).values()
    run = run_path(tmp_path / "runs", trial.config({}))
    with open_folder(run):
        process = start("sweep", sweep, folder=tmp_path)
        while not (tmp_path / "runs" / "small.sweep.json").exists():
            assert process.poll() is None
            time.sleep(0.1)
        code, _, err = call("sweep", sweep, folder=tmp_path)
        assert (code, "another process runs the sweep" in err) == (2, True)
        assert process.poll() is None
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "1/1  lrr sparsity=0.36  test" in out


def test_gpus_are_divided_among_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four, which need not be there for this."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu_slots(None) == ["0", "1", "2", "3"]
    assert gpu_slots(0.5) == ["0", "0", "1", "1", "2", "2", "3", "3"]
    assert gpu_slots(2) == ["0,1", "2,3"]
    assert gpu_slots(3) == ["0,1,2"]
    assert gpu_slots(0) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b,5,7")
    assert gpu_slots(2) == ["GPU-a,GPU-b", "5,7"]
    with pytest.raises(SweepError, match="takes 5 GPUs, and this machine has 4"):
        gpu_slots(5)
    with pytest.raises(SweepError, match="they are enough for 2"):
        LocalEngine(TrialConfig(gpus=2), workers=3)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert gpu_slots(None) == []


def epochs_done(folder: Path) -> int:
    """Of all trials together."""
    rows = folder.glob("runs/*/metrics.jsonl")
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in rows)


@pytest.mark.sweep
@pytest.mark.slow
def test_killed_sweeps_go_on_and_leave_no_process(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    grid: dict[str, Any] = {"method": ["lrr", "lrr+signin"], "seed": [0, 1]}
    # The name of the data is part of a run's name, so both read the same file.
    sweep = write_sweep(tmp_path, **grid, set={"epochs": 4})
    assert call("sweep", sweep, folder=whole)[0] == 0
    expected = results(whole)
    assert len(expected) == 4

    for ended in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        process = start("sweep", sweep, folder=killed)
        until = time.monotonic() + 60
        before = epochs_done(killed)
        # In the middle of the sweep: as soon as another epoch is done.
        while epochs_done(killed) <= before:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        own = children(process.pid)
        os.kill(process.pid, ended)
        code = process.wait(timeout=60)
        assert code == {signal.SIGINT: 130}.get(ended, -ended)
        process.communicate()
        until = time.monotonic() + 20
        while running(own):
            assert time.monotonic() < until, running(own)
            time.sleep(0.1)
    code, _, err = call("sweep", sweep, folder=killed)
    assert code == 0, err
    assert results(killed) == expected
