"""What the files of run folders say, of finished runs and of others; no model is built for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsify_fx.errors import AnalysisError, CheckpointError
from sparsify_fx.sweeps.ledger import SUFFIX, Entry, ledger_path, read_ledger
from sparsify_fx.train.recipes import read_recipe
from sparsify_fx.train.result import Result
from sparsify_fx.train.run_folder import CONFIG, RunFolder, find_folder


@dataclass(frozen=True)
class RunFacts:
    """A run as its folder tells it.

    Attributes:
        label: the method, or the name of the folder where several runs share a method; `seed` and others are in
            `config`, which holds the keys of config.yaml.
        metrics: the lines of metrics.jsonl, one an epoch; a line that is being written is left out.
        result: None until the run is finished.
    """

    label: str
    path: Path
    config: dict[str, Any]
    metrics: tuple[dict[str, Any], ...]
    result: Result | None

    @property
    def method(self) -> str:
        """As its configuration names it."""
        return str(self.config.get("method", ""))

    @property
    def state(self) -> str:
        """How far it has come, in words."""
        if self.result is not None:
            return "finished"
        return f"after epoch {len(self.metrics)}" if self.metrics else "no epoch yet"

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """(epochs, values) of a key of metrics.jsonl, where it has values: "test_accuracy" is None in some epochs."""
        rows = [row for row in self.metrics if row.get(name) is not None]
        return [row["epoch"] for row in rows], [float(row[name]) for row in rows]

    def last(self, name: str) -> float | None:
        """The newest value of a key of metrics.jsonl."""
        values = self.curve(name)[1]
        return values[-1] if values else None


@dataclass(frozen=True)
class Facts:
    """All runs, and a line for each trial of a sweep that has no folder to read."""

    runs: tuple[RunFacts, ...]
    missing: tuple[str, ...] = ()


def read_facts(
    paths: Sequence[str | os.PathLike[str]], runs: str | os.PathLike[str] = "runs"
) -> Facts:
    """The runs in folders, or of a sweep (its YAML file, with run folders in `runs`, or its NAME.sweep.json).

    Raises AnalysisError where nothing is given, or a run twice; CheckpointError for a folder that holds no run or is
    damaged; SweepError for a sweep that never ran.

    Example: `read_facts(["runs/lrr-0123456789"]).runs[0].curve("test_accuracy")`.
    """
    given = [Path(path) for path in paths]
    if not given:
        raise AnalysisError("no run is given; give run folders, or a sweep's file")
    folders: list[RunFolder] = []
    missing: list[str] = []
    for path in given:
        if _is_sweep(path):
            of_sweep, lacking = _of_sweep(path, Path(runs))
            folders += of_sweep
            missing += lacking
        else:
            folders.append(_folder(path))
    _check(folders)
    read = [_facts(folder) for folder in folders]
    methods = [one.method for one in read]
    # As in `analyze`: the method where it is enough, else the folder's name, which begins with it.
    named = [
        one if methods.count(one.method) == 1 else _renamed(one, one.path.name)
        for one in read
    ]
    return Facts(tuple(named), tuple(missing))


def _is_sweep(path: Path) -> bool:
    """Whether a path is a sweep's; a config.yaml is that of a run."""
    return path.name != CONFIG and path.suffix in (".yaml", ".yml", ".json")


def _of_sweep(path: Path, runs: Path) -> tuple[list[RunFolder], list[str]]:
    """The folders of a sweep's trials that have one, and a line for each other trial."""
    record = path if path.name.endswith(SUFFIX) else ledger_path(runs, path)
    entries = [entry for entry in read_ledger(record).trials if entry.compared]
    there = [entry for entry in entries if _has_folder(record.parent, entry)]
    lacking = [
        f"{entry.name}: {entry.error or entry.state}"
        for entry in entries
        if entry not in there
    ]
    if not there:
        raise AnalysisError(
            f"{record} names no trial with a run folder yet ({len(entries)} trials); run the sweep first"
        )
    return [find_folder(record.parent / entry.run) for entry in there], lacking


def _has_folder(runs: Path, entry: Entry) -> bool:
    return bool(entry.run) and (runs / entry.run / CONFIG).is_file()


def _folder(path: Path) -> RunFolder:
    """The run folder; CheckpointError, which names runs that lie in a folder that is none itself."""
    inside = sorted(path.glob(f"*/{CONFIG}")) if path.is_dir() else []
    if inside and not (path / CONFIG).is_file():
        raise CheckpointError(
            f"{path} is no run folder, but holds {len(inside)}; give {path}/* for all of them, or "
            f"{inside[0].parent}"
        )
    return find_folder(path)


def _check(folders: Sequence[RunFolder]) -> None:
    places = [folder.path.resolve() for folder in folders]
    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise AnalysisError(f"{folder.path} is given twice; give each run once")


def _facts(folder: RunFolder) -> RunFacts:
    content = folder.result()
    try:
        result = None if content is None else Result.from_dict(content)
    except CheckpointError as error:
        raise CheckpointError(f"{folder.path}: {error}") from error
    config = dict(read_recipe(folder.path / CONFIG))
    metrics = tuple(folder.metrics())
    return RunFacts(str(config.get("method", "")), folder.path, config, metrics, result)


def _renamed(facts: RunFacts, label: str) -> RunFacts:
    return RunFacts(label, facts.path, facts.config, facts.metrics, facts.result)
