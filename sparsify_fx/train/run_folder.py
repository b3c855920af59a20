"""Run folders: one folder per configuration, locked while in use, with a checkpoint to resume from.

runs/lrr-0123456789/
  config.yaml         the resolved configuration; also a recipe that `sparsify-fx train` reads
  metrics.jsonl       one JSON line per epoch
  checkpoint.pt       the newest state, written atomically
  epoch-30.safetensors, cycle-2.safetensors   weights and masks on the way, where asked for
  model.safetensors   the merged weights at the end
  result.json         written last: marks a finished run
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pickle
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml
from torch import Tensor

from sparsify_fx.errors import CheckpointError
from sparsify_fx.run_files import CHECKPOINT, WEIGHTS
from sparsify_fx.train.config import TrainConfig
from sparsify_fx.train.files import write_atomically, write_text

CONFIG, METRICS, RESULT = "config.yaml", "metrics.jsonl", "result.json"
TENSORBOARD = "tensorboard"
_LOCK = ".lock"


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
        file = self.path / RESULT
        if not file.exists():
            return None
        try:
            content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file} cannot be read ({error}); train again with --force") from error
        return content

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a line that a kill cut off is left out."""
        file = self.path / METRICS
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def checkpoint(self, device: str | torch.device = "cpu") -> dict[str, Any] | None:
        """The newest checkpoint, read without running anything pickled; None before the first.

        Raises CheckpointError when it is damaged.
        """
        file = self.path / CHECKPOINT
        if not file.exists():
            return None
        try:
            content: dict[str, Any] = torch.load(file, map_location=device, weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise CheckpointError(f"{file} cannot be read ({reason}); train again with --force") from error
        return content

    # ------------------------------------------------------------------ writing

    def write_config(self, config: TrainConfig) -> None:
        """Write config.yaml."""
        text = yaml.safe_dump(config.resolved().to_dict(), sort_keys=False)
        write_text(self.path / CONFIG, f"# sparsify-fx train {self.path / CONFIG}\n{text}")

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl and bring it to the disk."""
        with (self.path / METRICS).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def cut_metrics(self, epochs: int) -> None:
        """Drop what is later than the first `epochs` epochs (a kill may lie between a line and its checkpoint)."""
        rows = [row for row in self.metrics() if row["epoch"] <= epochs]
        write_text(self.path / METRICS, "".join(json.dumps(row) + "\n" for row in rows))

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Replace checkpoint.pt; tensors and plain types only."""
        write_atomically(self.path / CHECKPOINT, lambda stream: torch.save(state, stream))

    def save_state(self, name: str, state: Mapping[str, Tensor]) -> None:
        """Write the safetensors file `name`."""
        plain = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in state.items()}
        data = safetensors.torch.save(plain, metadata={"format": "pt"})
        write_atomically(self.path / name, lambda stream: stream.write(data))

    def finish(self, weights: Mapping[str, Tensor], result: dict[str, Any]) -> None:
        """Write the merged weights, then the result, which marks the run as finished."""
        self.save_state(WEIGHTS, weights)
        write_text(self.path / RESULT, json.dumps(result, indent=2) + "\n")

    def clear(self) -> None:
        """Remove what an earlier run wrote, the mark of its end first."""
        for name in (RESULT, CHECKPOINT, WEIGHTS, METRICS, CONFIG):
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / TENSORBOARD, ignore_errors=True)
        for pattern in (".*.tmp", "epoch-*.safetensors", "cycle-*.safetensors"):
            for leftover in self.path.glob(pattern):
                leftover.unlink(missing_ok=True)


@contextmanager
def open_folder(path: Path) -> Iterator[RunFolder]:
    """Create the folder if need be and hold its lock; the lock goes with the process, however that ends.

    Raises CheckpointError when another process holds it, or the folder cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / _LOCK).open("a")
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(f"cannot write to the run folder {path}: {reason}; choose another --runs") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise CheckpointError(f"cannot lock {path}: {error.strerror}; choose another --runs") from error
            raise CheckpointError(
                f"another process is training in {path}; wait for it, or choose another --runs"
            ) from None
        yield RunFolder(path)


def find_folder(path: str | os.PathLike[str]) -> RunFolder:
    """The run folder behind a path: the folder itself, or a file in it. CheckpointError for anything else."""
    given = Path(path)
    folder = given if given.is_dir() else given.parent
    if not given.exists() or not (folder / CONFIG).is_file():
        what = "does not exist" if not given.exists() else f"has no {CONFIG} beside it"
        raise CheckpointError(f"{given} {what}; give a run folder of `sparsify-fx train`, or its {CHECKPOINT}")
    return RunFolder(folder)
