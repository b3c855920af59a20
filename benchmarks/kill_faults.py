"""Faults for `python -m benchmarks.kills`: a process that kills itself in the middle of a write, a sync or a rename.

They are put into a forked process by replacing functions of `os` there; the package knows nothing of them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from sparsify_fx.train.run_folder import RunFolder

OPERATIONS = ("write", "fsync", "rename", "append")
WHEN = ("before", "midway", "after")


@dataclass(frozen=True)
class Fault:
    """operation: write (of a temporary file), fsync (of a file or folder), rename, append (of a line); number: which
    call of it, from 1; when: before it, after it, or with the first half of the bytes written.
    """

    operation: str
    number: int
    when: str


class Countdown:
    """Kills this process at its n-th call."""

    def __init__(self, fault: Fault) -> None:
        self.fault, self.left = fault, fault.number

    def around(self, call: Callable[[], Any], midway: Callable[[], Any]) -> Any:
        """Make the call, unless it is the one: then die before, in the middle, or after it."""
        self.left -= 1
        if self.left == 0 and self.fault.when == "before":
            die()
        if self.left == 0 and self.fault.when == "midway":
            midway()
            die()
        result = call()
        if self.left == 0:
            die()
        return result


class Torn:
    """A file whose writes may be the last thing that its process does."""

    def __init__(self, stream: BinaryIO, countdown: Countdown) -> None:
        self._stream, self._countdown = stream, countdown

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")

        def half() -> None:
            self._stream.write(view[: len(view) // 2])
            self._stream.flush()

        return int(self._countdown.around(lambda: self._stream.write(data), half))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> Torn:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def die() -> None:
    """SIGKILL for this process, whatever it holds."""
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def put_in(fault: Fault) -> None:
    """Let the fault happen in this process, which must be a forked one."""
    countdown = Countdown(fault)
    if fault.operation == "write":
        opened = os.fdopen
        os.fdopen = lambda *args, **kwargs: Torn(opened(*args, **kwargs), countdown)
    elif fault.operation == "append":
        RunFolder.append = _torn_append(countdown)  # type: ignore[method-assign]
    else:
        # A sync or a rename has no middle that a process could see.
        name = "replace" if fault.operation == "rename" else fault.operation
        call = getattr(os, name)
        setattr(
            os,
            name,
            lambda *args: countdown.around(lambda: call(*args), lambda: call(*args)),
        )


def _torn_append(countdown: Countdown) -> Callable[..., None]:
    append = RunFolder.append

    def torn(folder: RunFolder, row: Any) -> None:
        def half() -> None:
            with (folder.path / "metrics.jsonl").open("a") as stream:
                stream.write('{"epoch": ')

        countdown.around(lambda: append(folder, row), half)

    return torn
