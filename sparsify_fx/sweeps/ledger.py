"""The record of a sweep beside its run folders: which trial is in which folder, and which failed why.

runs/NAME.sweep.json is written anew, whole, whenever a trial ends. Without it nothing is lost but the list of failures:
run folders are named after what is trained in them, so the next session finds them again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sparsify_fx.errors import CheckpointError, SweepError
from sparsify_fx.train.files import write_text
from sparsify_fx.train.result import from_plain

SUFFIX = ".sweep.json"


@dataclass(frozen=True)
class Entry:
    """One trial. `state`: waiting, finished or failed; `run`: the name of its folder; `attempts` of this session."""

    name: str
    cell: dict[str, Any]
    compared: bool = True
    state: str = "waiting"
    run: str = ""
    error: str = ""
    attempts: int = 0


@dataclass(frozen=True)
class Ledger:
    """All trials of a sweep, in its order."""

    sweep: str
    trials: tuple[Entry, ...] = field(default_factory=tuple)

    def finished(self) -> list[Entry]:
        """Those that are in the comparison and have a result."""
        return [e for e in self.trials if e.compared and e.state == "finished"]


def ledger_path(runs: Path, sweep: Path) -> Path:
    """`runs`/NAME.sweep.json, NAME being that of the sweep's file."""
    return runs / f"{sweep.stem}{SUFFIX}"


def write_ledger(path: Path, ledger: Ledger) -> None:
    """Write it whole; SweepError where it cannot be written."""
    try:
        write_text(path, json.dumps(asdict(ledger), indent=2) + "\n")
    except OSError as error:
        raise SweepError(
            f"cannot write {path}: {error.strerror or error}; fix that, then the same command goes on"
        ) from error


def read_ledger(path: Path) -> Ledger:
    """The record of a sweep; SweepError when there is none, or it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return from_plain(Ledger, content, "record")
    except FileNotFoundError:
        raise SweepError(
            f"{path} does not exist; run the sweep first, or say with --runs where its runs are"
        ) from None
    # RecursionError: Python's parser raises it for brackets within brackets.
    except (OSError, ValueError, RecursionError, CheckpointError) as error:
        raise SweepError(
            f"{path} is no record of a sweep ({error}); run the sweep again, which writes it anew"
        ) from None


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold the sweep, so that no second process runs it; the folder of the runs is made if need be.

    Raises SweepError when another process runs it, or the folder cannot be written.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    # Timeout is an OSError too, so it comes first.
    except Timeout:
        raise SweepError(
            f"another process runs the sweep of {path}; wait for it, or choose another --runs"
        ) from None
    except (OSError, NotImplementedError) as error:
        raise SweepError(
            f"cannot write to {path.parent}: {getattr(error, 'strerror', None) or error}; choose another --runs"
        ) from error
    try:
        yield
    finally:
        lock.release()
