"""A model's process is ended at its limits, and whatever happens to it becomes the reason."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sparsify_fx.coverage.process import Limits, examine_apart, memory_of, seconds_of
from sparsify_fx.coverage.suites import Subject, subjects

pytestmark = pytest.mark.slow

(SMALL,) = subjects("timm", names=["test_vit"])


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(seconds=0.01), "more than 0.01 s for "),
        (Limits(memory=2**20), "more than 0.000976562 GB of memory during "),
    ],
)
def test_limits_end_the_process_and_are_the_reason(limits: Limits, reason: str) -> None:
    result = examine_apart(SMALL, ["forward", "keys"], limits)
    assert set(result.checks) == {"forward", "keys"}
    assert any(note.startswith(reason) for note in result.failures().values())
    assert not multiprocessing.active_children()


def test_a_killed_process_is_the_reason() -> None:
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(examine_apart, SMALL, ["pickle"], Limits())
        while not (children := multiprocessing.active_children()):
            time.sleep(0.001)
        while (pid := children[0].pid) is None:
            time.sleep(0.001)
        os.kill(pid, signal.SIGKILL)
    assert (
        future.result()
        .failures()["pickle"]
        .startswith("the process ended with code -9 during ")
    )


def test_a_model_that_does_not_build_says_why() -> None:
    result = examine_apart(
        Subject("timm", "no_such_net", "none", 1), ["forward", "onnx"], Limits()
    )
    assert set(result.failures()) == {"forward", "onnx"}
    assert (
        "the original model does not run: RuntimeError: Unknown model (no_such_net)"
        in result.checks["onnx"].note
    )


def test_facts_of_the_model_come_back() -> None:
    result = examine_apart(SMALL, ["forward"], Limits())
    assert result.failures() == {}
    assert (result.inputs, result.parameters) == ("2x3x160x160", SMALL.parameters)
    assert result.weights > 10
    assert result.peak_memory > 50 * 2**20


def test_the_allocators_setting_stays_with_the_server() -> None:
    """Whatever this process starts later must not inherit it."""
    before = dict(os.environ)
    examine_apart(SMALL, ["keys"], Limits())
    assert dict(os.environ) == before


ORPHAN = """
import multiprocessing, time
from sparsify_fx.coverage.worker import end_with_parent

def wait():
    end_with_parent()
    time.sleep(100)

if __name__ == "__main__":
    process = multiprocessing.get_context("forkserver").Process(target=wait)
    process.start()
    print(process.pid, flush=True)
    process.join()
"""


@pytest.mark.sweep
def test_no_process_outlives_the_one_that_asked_for_it(tmp_path: Path) -> None:
    (tmp_path / "orphan.py").write_text(ORPHAN)
    with subprocess.Popen(
        [sys.executable, tmp_path / "orphan.py"], stdout=subprocess.PIPE, text=True
    ) as asking:
        assert asking.stdout is not None
        pid = int(asking.stdout.readline())
        while memory_of(pid) < 50 * 2**20:  # it is not yet at work
            time.sleep(0.05)
        asking.kill()
    limit = time.monotonic() + 20
    while memory_of(pid) > 0 and time.monotonic() < limit:
        time.sleep(0.05)
    assert memory_of(pid) == 0


# In a process of its own: in this one, other tests' garbage may be collected meanwhile.
HOLDER = """
import os
input()
held = bytearray(os.urandom(64 * 2**20))
print("held", flush=True)
input()
"""


def test_memory_grows_with_what_is_held() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        before = memory_of(holder.pid)
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "held\n"
        assert memory_of(holder.pid) - before > 50 * 2**20
        holder.stdin.write("\n")
        holder.stdin.flush()


def test_time_is_that_of_the_processor() -> None:
    before, used = seconds_of(os.getpid()), time.process_time()
    while time.process_time() - used < 0.3:
        sum(range(10_000))
    worked = seconds_of(os.getpid()) - before
    time.sleep(0.3)
    assert 0.25 < worked < 0.6
    assert seconds_of(os.getpid()) - before < worked + 0.1


@pytest.mark.sweep
def test_a_process_that_hangs_is_ended_too() -> None:
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(examine_apart, SMALL, ["forward"], Limits(seconds=2.0))
        while (
            not (children := multiprocessing.active_children())
            or children[0].pid is None
        ):
            time.sleep(0.001)
        os.kill(children[0].pid, signal.SIGSTOP)
    assert (
        future.result()
        .failures()["forward"]
        .startswith("more than 10 s of wall time for ")
    )
