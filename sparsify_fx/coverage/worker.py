"""The process of one model: runs its checks and sends each outcome as soon as it is known."""

from __future__ import annotations

import gc
import multiprocessing
import os
import textwrap
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from sparsify_fx.coverage.bench import Bench, set_up
from sparsify_fx.coverage.checks import CHECKS
from sparsify_fx.coverage.export_check import NoDenseExport
from sparsify_fx.coverage.results import FAILED, NO_EXPORT, PASSED, Outcome
from sparsify_fx.coverage.structured_check import STRUCTURED
from sparsify_fx.coverage.suites import Subject
from sparsify_fx.errors import CoverageError

SET_UP = "set up"
_ALL = {**CHECKS, **STRUCTURED}


@dataclass(frozen=True)
class Message:
    """What the process says.

    Attributes:
        begin: the check that starts now.
        facts: attributes of the `ModelResult` that are known now.
        outcomes: checks that ended.
        last: whether there is nothing left to do.
    """

    begin: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    last: bool = False


Send = Callable[[Message], None]


def work(
    connection: Connection,
    subject: Subject,
    checks: Sequence[str],
    folder: str,
    threads: int,
) -> None:
    """The target of the process; what models and libraries print goes to a file in `folder`."""
    # The descriptors themselves, not sys.stdout: a crash in C++ writes to them, and its last line is the reason.
    log = os.open(Path(folder) / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    end_with_parent()
    examine(subject, checks, Path(folder), connection.send)


def end_with_parent() -> None:
    """From now on this process ends when the one that asked for it does: killed, that could leave gigabytes behind."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            # `sys.exit` would end this thread alone, and the check would run on in the main one.
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def examine(subject: Subject, checks: Sequence[str], folder: Path, send: Send) -> None:
    """Run the checks in their order; after an error that leaves the model in doubt the rest fails with its reason."""
    send(Message(begin=SET_UP))
    try:
        bench = set_up(subject, folder)
        facts = {
            "inputs": bench.trial.shape,
            "parameters": sum(p.numel() for p in bench.model.parameters()),
        }
        send(Message(facts=facts))
        broken = None
    except Exception as error:
        broken = Outcome(FAILED, reason_of(error))
    # In the order of CHECKS, whatever the order asked for: each check counts on the state that those before it left.
    for name in (name for name in _ALL if name in checks):
        send(Message(begin=name))
        if broken is None:
            outcome, usable = _run(name, bench)
            # A model that is plain again has no programs that could be counted.
            if bench.sparsity is not None:
                send(Message(facts={"weights": len(bench.names())}))
            broken = None if usable else Outcome(FAILED, f"not reached, {name} failed")
        else:
            outcome = broken
        send(Message(outcomes={name: outcome}))
    send(Message(last=True))


def _run(name: str, bench: Bench) -> tuple[Outcome, bool]:
    """The outcome, and whether the model can be used further."""
    # What the check before left in cycles must not count against the memory of this one.
    gc.collect()
    start = time.process_time()
    state, note, usable = PASSED, "", True
    try:
        note = _ALL[name](bench)
    except NoDenseExport as error:
        state, note = NO_EXPORT, reason_of(error)
    except CoverageError as error:
        state, note = FAILED, reason_of(error)
    # A promise that is not kept leaves the model as it is; any other error may have stopped in the middle of a rewrite.
    except Exception as error:
        state, note, usable = FAILED, reason_of(error), False
    return Outcome(state, note, round(time.process_time() - start, 2)), usable


def reason_of(error: Exception) -> str:
    """The message in one line; for an unexpected error with its type and the place where it was raised."""
    line = textwrap.shorten(str(error), 400, placeholder=" ...")
    if isinstance(error, CoverageError | NoDenseExport):
        return line
    places = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(places[-1].filename).name}, {places[-1].name})" if places else ""
    return f"{type(error).__name__}: {line}{place}"
