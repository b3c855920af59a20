"""Runs a sweep: hands trials to an engine once their donors are done, tries failed ones again, keeps a record."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from sparsify_fx.errors import SparsifyError
from sparsify_fx.sweeps.grid import Trial, order_of
from sparsify_fx.sweeps.ledger import SUFFIX, Entry, Ledger, write_ledger
from sparsify_fx.sweeps.trial import Job, Outcome, job_of
from sparsify_fx.train.run_folder import run_path
from sparsify_fx.train.saving import FIRST_CYCLE

_LOG = logging.getLogger(__name__)
# Seconds between two looks at what is running, for the table.
_TICK = 0.5


class Engine(Protocol):
    """Where trials run."""

    def submit(self, job: Job) -> Future[Outcome]:
        """Start it when there is room."""


@dataclass
class Sweep:
    """A sweep while it runs.

    Attributes:
        trials: all of them, by name.
        path: of the record; run folders lie beside it.
        leaders: by trial, the one whose first cycle it begins with.
        entries: the record of each trial.
        jobs, places: those that were handed to the engine and have not ended, and where they are trained.
        outcomes: of those that ended in this session, by name.
    """

    trials: Mapping[str, Trial]
    path: Path
    leaders: Mapping[str, str] = field(default_factory=dict)
    retries: int = 1
    threads: int = 1
    plugins: tuple[str, ...] = ()
    jobs: dict[str, Job] = field(default_factory=dict)
    places: dict[str, Path] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    entries: dict[str, Entry] = field(init=False)
    _saved: Ledger | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        # Nothing is known to be finished: finished runs are found by their folders, and take no time.
        self.entries = {
            name: Entry(name, trial.cell, trial.compared)
            for name, trial in self.trials.items()
        }

    @property
    def name(self) -> str:
        """That of the sweep's file."""
        return self.path.name.removesuffix(SUFFIX)

    @property
    def runs(self) -> Path:
        """The folder of the run folders."""
        return self.path.parent

    def run_of(self, name: str) -> Path:
        """The run folder of a trial that ended; of one that failed, a folder that is not there."""
        return self.runs / (self.entries[name].run or "none")

    def record(self, name: str, **changes: object) -> None:
        """Change the entry of a trial."""
        self.entries[name] = replace(self.entries[name], **changes)  # type: ignore[arg-type]

    def save(self) -> None:
        """Write the record, if anything changed since it was written."""
        ledger = Ledger(self.name, tuple(self.entries.values()))
        if ledger != self._saved:
            write_ledger(self.path, ledger)
            self._saved = ledger


def run_sweep(
    sweep: Sweep, engine: Engine, watch: Callable[[Sweep], None] = lambda sweep: None
) -> None:
    """Run every trial to its end, finished ones being found as such; what came of them is in `sweep.entries`.

    Args:
        watch: called about twice a second.

    Raises SweepError where the record cannot be written. A trial that fails ends none of the others.
    """
    order = order_of(sweep.trials, sweep.leaders)
    order.prepare()
    running: dict[Future[Outcome], str] = {}
    while order.is_active():
        for name in order.get_ready():
            if (future := _start(sweep, engine, name)) is None:
                order.done(name)
            else:
                running[future] = name
        # Once a turn and not for each trial: a sweep may have thousands, and each writing reaches the disk.
        sweep.save()
        watch(sweep)
        done, _ = wait(running, timeout=_TICK, return_when=FIRST_COMPLETED)
        for future in done:
            name = running.pop(future)
            if again := _settle(sweep, engine, name, _outcome(future, name)):
                running[again] = name
            else:
                order.done(name)
    sweep.save()
    watch(sweep)
    # Kept for trials of this sweep alone; each is as large as a checkpoint.
    for leader in set(sweep.leaders.values()):
        (sweep.run_of(leader) / FIRST_CYCLE).unlink(missing_ok=True)


def _start(sweep: Sweep, engine: Engine, name: str) -> Future[Outcome] | None:
    """Hand a trial to the engine; None for one that cannot be, which has failed then."""
    trial, leader = sweep.trials[name], sweep.leaders.get(name)
    entries = {donor: sweep.entries[donor] for donor in trial.donors}
    failed = [donor for donor, entry in entries.items() if entry.state != "finished"]
    try:
        if failed:
            raise SparsifyError(f"it takes from {', '.join(failed)}, which failed")
        # By an absolute path: the process that trains may be started elsewhere.
        folders = {
            donor: str((sweep.runs / entry.run).resolve())
            for donor, entry in entries.items()
        }
        config = trial.config(folders)
        sweep.places[name] = run_path(sweep.runs, config)
        job = job_of(
            name,
            config,
            sweep.runs,
            threads=sweep.threads,
            plugins=sweep.plugins,
            shares=str(sweep.run_of(leader).resolve()) if leader else "",
            keeps=name in sweep.leaders.values(),
        )
    except SparsifyError as error:
        sweep.record(name, state="failed", error=" ".join(str(error).split()))
        return None
    sweep.jobs[name] = job
    sweep.record(name, state="waiting", attempts=1, error="")
    return engine.submit(job)


def _settle(
    sweep: Sweep, engine: Engine, name: str, outcome: Outcome
) -> Future[Outcome] | None:
    """Record how a trial ended; the future of its next attempt if there is one."""
    attempts = sweep.entries[name].attempts
    if outcome.error and outcome.again and attempts <= sweep.retries:
        _LOG.warning("%s failed and is tried again: %s", name, outcome.error)
        sweep.record(name, attempts=attempts + 1, error=outcome.error)
        return engine.submit(sweep.jobs[name])
    del sweep.jobs[name]
    sweep.outcomes[name] = outcome
    state = "failed" if outcome.error else "finished"
    sweep.record(name, state=state, run=outcome.run, error=outcome.error)
    return None


def _outcome(future: Future[Outcome], name: str) -> Outcome:
    """What a future holds; an engine's own errors, such as a node that was lost too often, as words."""
    try:
        return future.result()
    except Exception as error:
        told = " ".join(str(error).split())[:500]
        return Outcome(name, error=f"{type(error).__name__}: {told}")


@contextmanager
def each_line_once() -> Iterator[None]:
    """A log line of this package that was shown is not shown again: all trials of a recipe have the same to say."""
    shown: set[str] = set()

    def fresh(record: logging.LogRecord) -> bool:
        line = record.getMessage()
        return not (line in shown or shown.add(line))  # type: ignore[func-returns-value]

    logger = logging.getLogger("sparsify_fx.train.recipes")
    logger.addFilter(fresh)
    try:
        yield
    finally:
        logger.removeFilter(fresh)
