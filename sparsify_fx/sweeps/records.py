"""What is compared: finished runs, each with its values by axis and its seed, from a sweep or from run folders."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsify_fx.errors import CheckpointError, SweepError
from sparsify_fx.sweeps.ledger import SUFFIX, Entry, ledger_path, read_ledger
from sparsify_fx.train.recipes import read_recipe
from sparsify_fx.train.result import Result
from sparsify_fx.train.run_folder import CONFIG, RESULT, RunFolder, find_folder

# No result depends on these, or every run has its own; a seed is what means are taken over.
_NO_AXIS = (
    "seed",
    "data_root",
    "checkpoint_every",
    "allow_other",
    "storage",
    "snapshots_at",
    "save_cycles",
)


@dataclass(frozen=True)
class Record:
    """One finished run. `cell`: its values by axis, without the seed; a cell of equal values is a row of the tables."""

    cell: Mapping[str, Any]
    seed: int
    result: Result

    @property
    def key(self) -> str:
        """The cell as text: equal for equal cells."""
        return json.dumps(self.cell, sort_keys=True, default=str)


@dataclass(frozen=True)
class Records:
    """All that is compared, in order; `missing`: a line for each trial or folder that has no result."""

    runs: tuple[Record, ...]
    missing: tuple[str, ...] = ()

    @property
    def axes(self) -> list[str]:
        """Names of the axes: method and sparsity first, then as they come."""
        names = dict.fromkeys(("method", "sparsity"))
        for record in self.runs:
            names |= dict.fromkeys(record.cell)
        return list(names)

    def cells(self) -> list[list[Record]]:
        """Runs that differ in nothing but the seed, together."""
        groups: dict[str, list[Record]] = {}
        for record in self.runs:
            groups.setdefault(record.key, []).append(record)
        return list(groups.values())


def read_records(paths: Sequence[Path], runs: Path = Path("runs")) -> Records:
    """The runs that paths name: one sweep's file (its record lies in `runs`) or record, or run folders.

    Raises SweepError when there is nothing to compare, or two runs have the same values and seed; CheckpointError for a
    folder that is damaged or none of a run.
    """
    sweep = len(paths) == 1 and paths[0].suffix in (".yaml", ".yml", ".json")
    # A config.yaml is that of a run.
    if sweep and paths[0].name != CONFIG:
        path = paths[0]
        if not path.name.endswith(SUFFIX):
            path = ledger_path(runs, path)
        found = _of_sweep(path)
    else:
        found = _of_folders([find_folder(path) for path in paths])
    _check(found)
    return found


def _of_sweep(path: Path) -> Records:
    """The finished trials of a sweep that are in its grid."""
    wanted = [entry for entry in read_ledger(path).trials if entry.compared]
    missing = [
        f"{entry.name}: {entry.error or 'not finished'}"
        for entry in wanted
        if entry.state != "finished"
    ]
    records = [
        _record(RunFolder(path.parent / entry.run), entry)
        for entry in wanted
        if entry.state == "finished"
    ]
    return Records(tuple(records), tuple(missing))


def _record(folder: RunFolder, entry: Entry) -> Record:
    """The record of a finished trial."""
    if (result := _result(folder)) is None:
        raise SweepError(
            f"{folder.path} holds no {RESULT}; run the sweep again, which trains what is missing"
        )
    cell, config = dict(entry.cell), read_recipe(folder.path / CONFIG)
    seed = int(cell.pop("seed", config["seed"]))
    # What the sweep's file does not name is the recipe's own, and a column all the same.
    own = {"method": result.method, "sparsity": result.requested_sparsity}
    return Record({**own, **cell}, seed, result)


def _of_folders(folders: Sequence[RunFolder]) -> Records:
    """The finished runs among folders; their axes are the keys in which they differ."""
    results = {folder: _result(folder) for folder in folders}
    missing = [f"{f.path}: not finished" for f, result in results.items() if not result]
    flat = {
        folder: dict(_leaves(read_recipe(folder.path / CONFIG)))
        for folder, result in results.items()
        if result
    }
    axes = ["method", "sparsity", *_differing(list(flat.values()))]
    records = [
        Record(
            {axis: keys[axis] for axis in dict.fromkeys(axes) if axis in keys},
            int(keys.get("seed", 0)),
            result,
        )
        for folder, keys in flat.items()
        if (result := results[folder])
    ]
    return Records(tuple(records), tuple(missing))


def _differing(configs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The keys whose values are not the same in all configurations, in order."""
    names: dict[str, None] = {}
    for config in configs:
        names |= dict.fromkeys(config)
    for name in names:
        values = {json.dumps(c.get(name), sort_keys=True, default=str) for c in configs}
        if len(values) > 1 and name.partition(".")[0] not in _NO_AXIS:
            yield name


def _leaves(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The plain values of a configuration by dotted key."""
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _result(folder: RunFolder) -> Result | None:
    """The result of a run; None for an unfinished one; CheckpointError for a damaged one."""
    content = folder.result()
    if content is None:
        return None
    try:
        return Result.from_dict(content)
    except CheckpointError as error:
        raise CheckpointError(f"{folder.path / RESULT}: {error}") from error


def _check(found: Records) -> None:
    """SweepError when there is nothing to compare, or a seed would count twice."""
    if not found.runs:
        told = f" ({'; '.join(found.missing[:3])})" if found.missing else ""
        raise SweepError(f"no finished run to compare{told}; finish some first")
    seen: dict[tuple[str, int], str] = {}
    for record in found.runs:
        place = (record.key, record.seed)
        if place in seen:
            raise SweepError(
                f"{seen[place]} and {record.result.folder} have the same values and the same seed {record.seed}, so "
                "that one would count twice; leave one of them out"
            )
        seen[place] = record.result.folder
