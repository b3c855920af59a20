"""A sweep killed three times, on this machine and on a Ray cluster, one node of which is killed too: equal tables.

    python benchmarks/sweep_kills.py                  # ten to thirty minutes; docs/results/sweep_kills.json
    python benchmarks/sweep_kills.py --small          # two methods, two seeds; writes nothing

3 methods x 3 sparsities x 3 seeds on mnist5k, 2 epochs a cycle; lrr and imp share their first cycle:

1. Nothing happens to it.
2. On this machine. The process of the sweep gets SIGKILL three times, at random moments in which a trial is trained.
3. On a cluster of two nodes with one core each (two raylets on this machine, ray.cluster_utils). The sweep gets SIGKILL
   three times likewise, and in its fourth session all processes of one node do, while both nodes train.

Each is then run to its end. The run folders, the merged weights to the bit and the tables of `compare` must be equal,
and no process may be left. Needs the extra `ray`.
"""

from __future__ import annotations

import argparse
import atexit
import hashlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from sparsify_fx.train.provenance import git_commit, versions

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "docs" / "results" / "sweep_kills.json"
SWEEP: dict[str, Any] = {
    "recipe": "mnist5k-lenet5",
    "method": ["lrr", "imp", "lrr+signin"],
    "sparsity": [0.2, 0.36, 0.488],
    "seed": [0, 1, 2],
    "set": {"epochs": 2, "batch_size": 250, "device": "cpu", "optimizer.lr": 0.1},
}
SMALL = {"method": ["lrr", "imp"], "sparsity": [0.36], "seed": [0, 1]}
KILLS = 3
# Epochs from the start of a session to its end, at most: of all four together there are more.
MOST, MOST_SMALL = 20, 3
TABLES = ("cells.csv", "differences.csv", "cycles.csv", "compare.md")


def start(sweep: Path, runs: Path, *options: str) -> subprocess.Popen[bytes]:
    """A session of the sweep."""
    command = [sys.executable, "-m", "sparsify_fx", "sweep", str(sweep)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--runs", str(runs), *options],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    # A session that a failure of this script leaves behind ends with it.
    atexit.register(process.kill)
    return process


def progress(runs: Path) -> int:
    """Epochs that all trials have behind them, by what their folders hold."""
    files = runs.glob("*/metrics.jsonl")
    return sum(file.read_bytes().count(b"\n") for file in files)


def wait_for_epochs(process: subprocess.Popen[bytes], runs: Path, count: int) -> None:
    """Return when `count` more epochs are trained."""
    before, until = progress(runs), time.monotonic() + 300
    while progress(runs) < before + count:
        assert process.poll() is None, "the sweep ended before it was killed"
        assert time.monotonic() < until, "no epoch in five minutes"
        time.sleep(0.02)


def kill_three_times(
    sweep: Path, runs: Path, draw: Callable[[], int], *options: str
) -> list[int]:
    """Start the sweep and kill it, three times; epochs trained before each kill."""
    epochs = []
    for _ in range(KILLS):
        process = start(sweep, runs, *options)
        wait_for_epochs(process, runs, draw())
        # Not at the moment in which an epoch ends.
        time.sleep(random.random() * 0.5)
        process.send_signal(signal.SIGKILL)
        process.wait()
        epochs.append(progress(runs))
    return epochs


def finish(process: subprocess.Popen[bytes]) -> None:
    code = process.wait(timeout=1800)
    assert code == 0, f"the sweep left with {code}"


def on_ray(sweep: Path, runs: Path, draw: Callable[[], int]) -> dict[str, Any]:
    """Killed three times on a cluster, then run to its end while a node is killed."""
    from ray.cluster_utils import Cluster

    # Not at 127.0.0.1: ray.init would look for the cluster at the machine's own address instead.
    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    node["include_dashboard"] = False
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        second = cluster.add_node(**node)
        options = ("--ray", cluster.address)
        epochs = kill_three_times(sweep, runs, draw, *options)
        process = start(sweep, runs, *options)
        wait_for_epochs(process, runs, draw())
        at = progress(runs)
        # SIGKILL for the raylet and what runs on it, without a goodbye to the cluster.
        cluster.remove_node(second, allow_graceful=False)
        finish(process)
    finally:
        cluster.shutdown()
    return {"epochs_before_kills": epochs, "epochs_before_the_node_is_killed": at}


def outcome(sweep: Path, runs: Path) -> dict[str, str]:
    """Digests of every run's weights, by folder, and of the tables."""
    out = runs / "tables"
    command = [sys.executable, "-m", "sparsify_fx", "compare", str(sweep)]
    options = [
        "--runs",
        str(runs),
        "--out",
        str(out),
        "--format",
        "csv",
        "--format",
        "md",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [*command, *options], env=environment, check=True, stdout=subprocess.DEVNULL
    )
    files = [
        *sorted(runs.glob("*/model.safetensors")),
        *(out / name for name in TABLES),
    ]
    return {
        str(file.relative_to(runs)): hashlib.blake2b(file.read_bytes()).hexdigest()[:16]
        for file in files
        if file.exists()
    }


def left_over(word: str) -> list[str]:
    """Command lines of processes that know of this sweep's folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if word in line and file.parent.name != str(os.getpid()):
            found.append(line)
    return found


def measure(folder: Path, small: bool, seed: int) -> dict[str, Any]:
    """All three, and whether they are equal."""
    sweep = folder / "digits.yaml"
    sweep.write_text(yaml.safe_dump({**SWEEP, **(SMALL if small else {})}))
    random.seed(seed)
    draw = partial(random.randint, 1, MOST_SMALL if small else MOST)
    told, seconds = {}, {}
    begin = time.monotonic()
    finish(start(sweep, folder / "whole"))
    seconds["whole"] = time.monotonic() - begin
    expected = outcome(sweep, folder / "whole")

    begin = time.monotonic()
    epochs = kill_three_times(sweep, folder / "local", draw)
    finish(start(sweep, folder / "local"))
    told["local"] = {"epochs_before_kills": epochs}
    seconds["local"] = time.monotonic() - begin

    begin = time.monotonic()
    told["ray"] = on_ray(sweep, folder / "ray", draw)
    seconds["ray"] = time.monotonic() - begin
    for name in ("local", "ray"):
        found = outcome(sweep, folder / name)
        odd = sorted(
            key for key in expected | found if expected.get(key) != found.get(key)
        )
        assert not odd, f"{name} differs in {odd}"
    assert not left_over(str(folder)), left_over(str(folder))
    return {
        "command": f"python benchmarks/sweep_kills.py --seed {seed}",
        "commit": git_commit(ROOT),
        "versions": versions(),
        "machine": platform.machine(),
        "sweep": SWEEP,
        "runs": sum(name.endswith(".safetensors") for name in expected),
        "epochs": progress(folder / "whole"),
        "equal": True,
        **told,
        "seconds": seconds,
        "tables": {
            name: (folder / "whole" / "tables" / name).read_text() for name in TABLES
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="sweep-kills-") as folder:
        result = measure(Path(folder), options.small, options.seed)
    if not options.small:
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    shown = {key: result[key] for key in ("runs", "epochs", "local", "ray", "seconds")}
    print(json.dumps({"equal": True, **shown}))


if __name__ == "__main__":
    main()
