"""One trial in a process of its own, on this machine or on another: the configuration in, what came of it out."""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sparsify_fx.errors import CheckpointError, PreemptedError, SparsifyError
from sparsify_fx.plugins import load_files
from sparsify_fx.sweeps.first_cycle import begin_with_first_cycle
from sparsify_fx.train.config import TrainConfig, parse_config
from sparsify_fx.train.loop import train
from sparsify_fx.train.run_folder import LOCK, run_path

# Seconds to wait for a folder: a trial of a sweep or of a node that was killed may take a while to end.
_PATIENCE = 120.0
GRACE = 10.0
"""Seconds in which a trial that is asked to end saves where it is."""


@dataclass(frozen=True)
class Job:
    """What a process needs to know. Paths are absolute: it may be on another machine that shares the file system.

    `devices` is what CUDA_VISIBLE_DEVICES is set to, None to leave it as it is; `threads` are torch's; `shares`: the
    run whose first cycle it begins with, "" for none; `keeps`: whether others begin with its own.
    """

    trial: str
    config: Mapping[str, Any]
    runs: str
    folder: str
    threads: int = 1
    devices: str | None = None
    plugins: tuple[str, ...] = ()
    shares: str = ""
    keeps: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a trial ended. `run`: the name of its run folder; `error`: why it failed, "" where it did not.

    `again`: whether it might succeed when it is tried once more.
    """

    trial: str
    run: str = ""
    error: str = ""
    again: bool = False
    seconds: float = 0.0
    accuracies: Mapping[str, float] = field(default_factory=dict)


def run_job(job: Job) -> Outcome:
    """Train, or go on, or find it finished; an error comes back as words, so that no process dies of one."""
    start = time.perf_counter()
    # Before the first use of CUDA, which looks at the variable once.
    if job.devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = job.devices
    import torch

    torch.set_num_threads(job.threads)
    # What it has to say would cut the table of the sweep in two; remarks on results are in result.json.
    logger = logging.getLogger("sparsify_fx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return _trained(job, start)
    except SparsifyError as error:
        # Same seed, same bits: a training that diverged does so again, but a disk may have room by then.
        again = isinstance(error, CheckpointError | PreemptedError)
        return Outcome(job.trial, error=_line(error), again=again)
    except Exception as error:  # whatever a plugin, a driver or a full memory raises
        told = f"{type(error).__name__}: {_line(error)}"
        return Outcome(job.trial, error=told, again=True)
    # The next to use this process may want to hear everything.
    finally:
        logger.setLevel(level)


def _trained(job: Job, start: float) -> Outcome:
    """The outcome of a training that ends well."""
    _enter(job)
    load_files(job.plugins)
    config = parse_config(job.config, job.trial)
    path = run_path(job.runs, config)
    wait_until_free(path)
    if job.shares:
        begin_with_first_cycle(config, Path(job.shares), path)
    result = train(
        config,
        runs_dir=job.runs,
        progress=False,
        tensorboard=False,
        grace=GRACE,
        keep_first_cycle=job.keeps,
    )
    accuracies = {"train": result.train_accuracy, "test": result.test_accuracy}
    seconds = time.perf_counter() - start
    return Outcome(job.trial, path.name, seconds=seconds, accuracies=accuracies)


def _enter(job: Job) -> None:
    """Work where the sweep was started: data and plugins may be named relative to it."""
    if not Path(job.runs).is_dir():
        raise CheckpointError(
            f"{job.runs} is not there on {platform.node()}; a sweep over several machines needs a file system that "
            "all of them share"
        )
    if Path(job.folder).is_dir():
        os.chdir(job.folder)


def wait_until_free(path: Path, patience: float = _PATIENCE) -> None:
    """Return when no process trains in a run folder, or after `patience` seconds, for `train` to refuse it."""
    if not (path / LOCK).exists():
        return
    try:
        with FileLock(path / LOCK).acquire(timeout=patience, poll_interval=0.5):
            return
    # What cannot be locked is told by the training, with what to do.
    except (Timeout, OSError, NotImplementedError):
        return


def job_of(name: str, config: TrainConfig, runs: Path, **options: Any) -> Job:
    """The job of a trial; `options`: the other fields."""
    return Job(name, config.to_dict(), str(runs.resolve()), str(Path.cwd()), **options)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
