"""One model in a process of its own, watched: it is ended when it takes too long or holds too much memory."""

from __future__ import annotations

import logging
import multiprocessing
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sparsify_fx.coverage import worker
from sparsify_fx.coverage.results import FAILED, ModelResult, Outcome
from sparsify_fx.coverage.suites import Subject

_LOG = logging.getLogger(__name__)

# Large blocks come from the system one by one and go back to it: freed weights must not stay with the process, whose
# memory is limited. For glibc; others do not read it.
_ALLOCATOR = ("MALLOC_MMAP_THRESHOLD_", str(2**22))
_STARTING = threading.Lock()
# Seconds between two looks at memory and time.
_POLL = 0.2
# A check may take so many times its processor time in wall time: others may want the processor too.
_PATIENCE = 5


@dataclass(frozen=True)
class Limits:
    """What one model may take: `seconds` of processor time for each check, `memory` in bytes, `threads` of torch.

    In wall time a check may take five times as long, for a machine that does other things, or a process that hangs.
    """

    seconds: float = 600.0
    memory: int = 12 * 2**30
    threads: int = 1


def examine_apart(
    subject: Subject, checks: Sequence[str], limits: Limits
) -> ModelResult:
    """Run the checks in a fresh process; whatever happens to it becomes the reason of the check that it was at.

    Processes are forked from a server that has torch and the model libraries loaded, but never ran anything.
    """
    # A plain fork would copy this process with its threads and locks, of which torch has many; spawning imports torch
    # and both libraries anew for each model, which takes longer than some models' checks.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([worker.__name__])
    _start_server()
    result = ModelResult(subject.suite, subject.name, subject.group, subject.parameters)
    with tempfile.TemporaryDirectory(prefix="sparsify-fx-coverage-") as folder:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(
            target=worker.work, args=(sender, subject, checks, folder, limits.threads)
        )
        process.start()
        # Only the child may hold the sending end: then the pipe ends with it, and a crash shows as EOFError.
        sender.close()
        try:
            reason = _watch(process, receiver, result, limits)
        finally:
            process.kill()
            process.join()
        # Checks that it did not reach fail with the same reason: a model that crashed must not look half passed.
        if reason is not None:
            note = f"{reason}{_last_words(Path(folder) / 'log') if 'ended' in reason else ''}"
            result.checks |= {
                name: Outcome(FAILED, note)
                for name in checks
                if name not in result.checks
            }
    return result


def _start_server() -> None:
    """Start the server, if none runs, with the allocator's setting; processes of others must not inherit that."""
    name, value = _ALLOCATOR
    # Models may be examined in several threads, which have one environment together.
    with _STARTING:
        given = os.environ.get(name)
        os.environ.setdefault(name, value)
        try:
            forkserver.ensure_running()
        finally:
            # The server has its copy by now, and a setting of the user's own was left alone.
            if given is None:
                del os.environ[name]


def _watch(
    process: Any, receiver: Connection, result: ModelResult, limits: Limits
) -> str | None:
    """Gather messages until the last; the reason when the process ends or must be ended before that."""
    # Limits hold for each check, so both clocks start again when the next begins.
    doing, since, used = worker.SET_UP, time.monotonic(), seconds_of(process.pid)
    while True:
        try:
            message: worker.Message = (
                receiver.recv() if receiver.poll(_POLL) else worker.Message()
            )
        except EOFError:
            process.join()
            return f"the process ended with code {process.exitcode} during {doing}"
        if message.last:
            return None
        if message.begin:
            _LOG.debug("%s: %s begins", result.name, message.begin)
            doing, since = message.begin, time.monotonic()
            used = seconds_of(process.pid)
        for name, fact in message.facts.items():
            setattr(result, name, fact)
        result.checks |= message.outcomes
        for name, outcome in message.outcomes.items():
            _LOG.debug("%s %s: %s", result.name, name, outcome.state)
        # Looked at from outside: the process itself may be within a kernel for minutes, or swapping.
        held = memory_of(process.pid)
        result.peak_memory = max(result.peak_memory, held)
        if held > limits.memory:
            return f"more than {limits.memory / 2**30:g} GB of memory during {doing}"
        if seconds_of(process.pid) - used > limits.seconds:
            return f"more than {limits.seconds:g} s for {doing}"
        if time.monotonic() - since > _PATIENCE * limits.seconds:
            return (
                f"more than {_PATIENCE * limits.seconds:g} s of wall time for {doing}"
            )


def memory_of(pid: int) -> int:
    """Bytes of memory that the process holds; without mapped files where the system tells them apart."""
    # Mapped files do not count: their pages are the system's to drop, and torch's libraries alone are many of them.
    status = Path(f"/proc/{pid}/status")
    try:
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
        return sum(
            int(line.split()[1]) * 1024
            for line in lines
            if line.startswith(("RssAnon:", "RssShmem:"))
        )
    except OSError:
        pass
    # macOS has no /proc; `ps` counts mapped pages too, which makes the limit a little stricter there.
    asked = subprocess.run(
        ["ps", "-o", "rss=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
    )
    return int(asked.stdout.strip() or 0) * 1024


def seconds_of(pid: int) -> float:
    """Processor time that all threads of the process have used; 0 where the system keeps no such file."""
    try:
        # The name of the program stands in brackets and may hold blanks; user and system time follow as 12th and 13th.
        fields = (
            Path(f"/proc/{pid}/stat")
            .read_text(encoding="utf-8", errors="replace")
            .rpartition(")")[2]
            .split()
        )
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _last_words(log: Path) -> str:
    """The last line that the process wrote, for instance of a crash."""
    lines: list[str] = []
    if log.is_file():
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f": {lines[-1][:300]}" if lines else ""
