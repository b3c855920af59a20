"""Run folders: one folder per configuration, locked while in use, with a checkpoint to resume from.

runs/lrr-0123456789/
  config.yaml         the resolved configuration; also a recipe that `sparsify-fx train` reads
  metrics.jsonl       one JSON line per epoch
  data.json           the digest of the data it is trained on, and their classes, channels and pixels
  checkpoint.pt       the newest state, written atomically
  epoch-30.safetensors, cycle-2.safetensors   weights and masks on the way, where asked for
  model.safetensors   the merged weights at the end
  result.json         written last: marks a finished run
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
import yaml
from filelock import BaseFileLock, FileLock, Timeout
from torch import Tensor

from sparsify_fx.checkpoints.checksums import SealingStream
from sparsify_fx.checkpoints.run_files import (
    AVERAGE,
    BEST,
    CHECKPOINT,
    WEIGHTS,
    packed,
    read_checkpoint,
)
from sparsify_fx.errors import CheckpointError
from sparsify_fx.train.config import TrainConfig
from sparsify_fx.train.files import write_atomically, write_text

CONFIG, METRICS, RESULT, DATA = (
    "config.yaml",
    "metrics.jsonl",
    "result.json",
    "data.json",
)
TENSORBOARD = "tensorboard"
LOCK = ".lock"
_REMEDY = "train again with --force"
_STATES = (AVERAGE, BEST, "epoch-*.safetensors", "cycle-*.safetensors", "first-*.pt")


def run_path(runs_dir: str | os.PathLike[str], config: TrainConfig) -> Path:
    """`runs_dir`/{method}-{hash}."""
    return Path(runs_dir) / f"{config.resolved().method}-{config.hash()}"


class RunFolder:
    """The files of one run. Reading needs no lock; write only inside `open_folder`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    # ------------------------------------------------------------------ reading

    def result(self) -> dict[str, Any] | None:
        """The content of result.json; None for an unfinished run. CheckpointError when it is damaged."""
        return self._json(RESULT)

    def data(self) -> dict[str, Any] | None:
        """The content of data.json; None before the first epoch and in runs of 0.1. CheckpointError when damaged."""
        return self._json(DATA)

    def metrics(self, epochs: int | None = None) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line that a kill cut off is left out.

        Args:
            epochs: how many are wanted; later lines, or what is left of them, do not count.

        Raises CheckpointError, with the number of the line, when one of them is damaged or missing.
        """
        file = self.path / METRICS
        try:
            # What follows the last line feed is nothing, or a line that a kill cut off while it was appended.
            lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
        except OSError as error:
            raise CheckpointError(
                f"{file} cannot be read ({error.strerror}); {_REMEDY}"
            ) from error
        rows = [
            _row(file, number, line)
            for number, line in enumerate(lines[:epochs], start=1)
        ]
        if epochs is not None and len(rows) < epochs:
            raise CheckpointError(
                f"{file} holds {len(rows)} of the {epochs} epochs of the checkpoint; {_REMEDY}"
            )
        return rows

    def checkpoint(self, device: str | torch.device = "cpu") -> dict[str, Any] | None:
        """The newest checkpoint, read without running anything pickled; None before the first.

        Raises CheckpointError when it is damaged, in whichever bit.
        """
        file = self.path / CHECKPOINT
        return read_checkpoint(file, device) if file.exists() else None

    def _json(self, name: str) -> dict[str, Any] | None:
        """A JSON object by the name of its file; None where there is none."""
        file = self.path / name
        try:
            if not file.exists():
                return None
            content = json.loads(file.read_text(encoding="utf-8"))
        # RecursionError: Python's parser raises it for brackets within brackets, of which a damaged file may have many.
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(
                f"{file} cannot be read ({error}); {_REMEDY}"
            ) from error
        if not isinstance(content, dict):
            raise CheckpointError(
                f"{file} holds {type(content).__name__}, no JSON object; {_REMEDY}"
            )
        return content

    # ------------------------------------------------------------------ writing

    def write_config(self, config: TrainConfig) -> None:
        """Write config.yaml."""
        text = yaml.safe_dump(config.resolved().to_dict(), sort_keys=False)
        with self._writing(CONFIG):
            write_text(
                self.path / CONFIG, f"# sparsify-fx train {self.path / CONFIG}\n{text}"
            )

    def write_data(self, content: Mapping[str, Any]) -> None:
        """Write data.json."""
        with self._writing(DATA):
            write_text(self.path / DATA, json.dumps(content, indent=2) + "\n")

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl and bring it to the disk."""
        with (
            self._writing(METRICS),
            (self.path / METRICS).open("a", encoding="utf-8") as stream,
        ):
            stream.write(json.dumps(row) + "\n")
            stream.flush()
            # On the disk before the checkpoint of the same epoch, which could not be resumed without this line.
            os.fsync(stream.fileno())

    def cut_metrics(self, epochs: int) -> list[dict[str, Any]]:
        """Drop what is later than the first `epochs` epochs (a kill may lie between a line and its checkpoint).

        Returns the lines that are left; CheckpointError when there are fewer, or one is damaged.
        """
        # Written whole and anew instead of truncated in place: a kill in here leaves the old file.
        rows = self.metrics(epochs)
        with self._writing(METRICS):
            write_text(
                self.path / METRICS, "".join(json.dumps(row) + "\n" for row in rows)
            )
        return rows

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Replace checkpoint.pt; tensors and plain types only."""

        def write(stream: BinaryIO) -> None:
            # Sealed while it is written: a checksum afterwards would be a second pass over gigabytes.
            sealing = SealingStream(stream)
            torch.save(state, sealing)  # type: ignore[arg-type]  # it needs write and flush alone
            sealing.seal()

        with self._writing(CHECKPOINT):
            write_atomically(self.path / CHECKPOINT, write)

    def keep_checkpoint(self, name: str) -> None:
        """Keep the newest checkpoint under another name too."""
        with self._writing(name), (self.path / CHECKPOINT).open("rb") as source:
            write_atomically(
                self.path / name, lambda stream: shutil.copyfileobj(source, stream)
            )

    def save_state(self, name: str, state: Mapping[str, Tensor]) -> None:
        """Write the safetensors file `name`."""
        data = packed(state)
        with self._writing(name):
            write_atomically(self.path / name, lambda stream: stream.write(data))

    def finish(self, weights: Mapping[str, Tensor], result: dict[str, Any]) -> None:
        """Write the merged weights, then the result, which marks the run as finished."""
        self.save_state(WEIGHTS, weights)
        with self._writing(RESULT):
            write_text(self.path / RESULT, json.dumps(result, indent=2) + "\n")

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """CheckpointError, which says what to do, for a file that cannot be written; what was there stays."""
        try:
            yield
        except OSError as error:
            # In a removed folder every write fails as a missing file, which says nothing of what happened.
            if not self.path.is_dir():
                raise CheckpointError(
                    f"the run folder {self.path} was removed while it was trained in; the same command starts afresh"
                ) from error
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            remedy = "free some space" if full else "fix that"
            raise CheckpointError(
                f"cannot write {self.path / name}: {error.strerror or error}; {remedy}, then the same command goes on "
                "from the last checkpoint"
            ) from error

    def clear(self) -> None:
        """Remove what an earlier run wrote, the mark of its end first."""
        # A kill in the middle must leave an unfinished run, not a result beside the weights of another one.
        with self._writing(RESULT):
            for name in (RESULT, CHECKPOINT, WEIGHTS, METRICS, CONFIG, DATA):
                (self.path / name).unlink(missing_ok=True)
            shutil.rmtree(self.path / TENSORBOARD, ignore_errors=True)
            for pattern in _STATES:
                for file in self.path.glob(pattern):
                    file.unlink(missing_ok=True)

    def remove_leftovers(self) -> None:
        """Remove the unfinished files of runs that were killed; only the holder of the lock may."""
        for file in self.path.glob(".*.tmp"):
            # Nothing reads them, so one that belongs to somebody else may stay.
            with suppress(OSError):
                file.unlink()


def _row(file: Path, number: int, line: bytes) -> dict[str, Any]:
    """One line of metrics.jsonl; CheckpointError when it is no JSON object."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    # The number is compared too: lines that changed places, or one that is missing, are damage as well.
    if not isinstance(row, dict) or row.get("epoch") != number:
        raise CheckpointError(
            f"line {number} of {file} is no record of epoch {number}: {line[:60]!r}; {_REMEDY}"
        )
    return row


@contextmanager
def open_folder(path: Path) -> Iterator[RunFolder]:
    """Create the folder if need be and hold its lock; the lock goes with the process, however that ends.

    Raises CheckpointError when another process holds it, or the folder cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        # Opened by itself first, to tell "cannot be written" from "cannot be locked".
        (path / LOCK).open("a").close()
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(
            f"cannot write to the run folder {path}: {reason}; choose another --runs"
        ) from error
    lock = _locked(path)
    try:
        folder = RunFolder(path)
        folder.remove_leftovers()
        yield folder
    finally:
        lock.release()


def _locked(path: Path) -> BaseFileLock:
    """The lock of a folder, held; the system's own (flock, or LockFile on Windows), which a killed run cannot keep."""
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(timeout=0)
    # Timeout is an OSError too, so it comes first.
    except Timeout:
        raise CheckpointError(
            f"another process is training in {path}; wait for it, or choose another --runs"
        ) from None
    # Older filelocks raise NotImplementedError where there is no flock.
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"cannot lock {path}: {reason}; choose another --runs"
        ) from error
    return lock


def find_folder(path: str | os.PathLike[str]) -> RunFolder:
    """The run folder that a path names: itself, or by a file in it. CheckpointError for anything else."""
    given = Path(path)
    folder = given if given.is_dir() else given.parent
    if not given.exists() or not (folder / CONFIG).is_file():
        what = "does not exist" if not given.exists() else f"has no {CONFIG} beside it"
        raise CheckpointError(
            f"{given} {what}; give a run folder of `sparsify-fx train`, or its {CHECKPOINT}"
        )
    return RunFolder(folder)
