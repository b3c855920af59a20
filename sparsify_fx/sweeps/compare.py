"""Tables of a comparison: a mean for each cell, differences between methods on equal seeds, accuracy cycle by cycle."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sparsify_fx.sweeps.records import Record, Records
from sparsify_fx.sweeps.spread import spread
from sparsify_fx.tables.shown import html_of

Value = str | int | float | None


@dataclass(frozen=True)
class Table:
    """One table of numbers. `name`: of its file; None stands where there is no number."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]


@dataclass(frozen=True, repr=False)
class Comparison:
    """All tables of some runs, and what is missing in them."""

    records: Records
    tables: tuple[Table, ...]

    def headline(self) -> str:
        """How many runs and tables, and how many are missing."""
        records = self.records
        return f"{len(records.runs)} runs, {len(self.tables)} tables, {len(records.missing)} missing"

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.headline()}>"

    def _repr_html_(self) -> str:
        # `formats` reads this module's tables.
        from sparsify_fx.sweeps.formats import grid

        return html_of((grid(each).table() for each in self.tables), self.headline())

    def to_dict(self) -> dict[str, Any]:
        """The tables as rows by column, JSON-ready."""
        return {
            "missing": list(self.records.missing),
            **{
                table.name: [
                    dict(zip(table.columns, row, strict=True)) for row in table.rows
                ]
                for table in self.tables
            },
            "runs": [
                {
                    "cell": dict(record.cell),
                    "seed": record.seed,
                    "folder": record.result.folder,
                    "test_accuracy": record.result.test_accuracy,
                    "provenance": asdict(record.result.provenance),
                }
                for record in self.records.runs
            ],
        }


def compare(records: Records) -> Comparison:
    """Means with 95 % intervals per cell, paired differences, and accuracy against sparsity per cycle."""
    tables = (cell_table(records), difference_table(records), cycle_table(records))
    return Comparison(records, tuple(table for table in tables if table.rows))


def cell_table(records: Records) -> Table:
    """A row for each cell: n seeds, the mean test accuracy, and ± half of its 95 % interval."""
    rows: list[tuple[Value, ...]] = []
    for runs in records.cells():
        found = spread([run.result.test_accuracy for run in runs])
        reached = spread([1 - run.result.density for run in runs]).mean
        rows.append(
            (*_values(runs[0], records.axes), found.n, found.mean, found.half, reached)
        )
    columns = (*records.axes, "n", "test accuracy", "± 95 %", "reached sparsity")
    return Table("cells", "Test accuracy, mean over seeds", columns, tuple(rows))


def difference_table(records: Records) -> Table:
    """A row for each two methods with equal other values: the mean of the differences on equal seeds, first − second.

    What seeds have in common (weights, order of the data) falls out of a difference, so its interval is often narrower
    than those of the two means.
    """
    others = [axis for axis in records.axes if axis != "method"]
    groups: dict[str, list[list[Record]]] = {}
    for runs in records.cells():
        rest = {axis: runs[0].cell.get(axis) for axis in others}
        groups.setdefault(json.dumps(rest, default=str), []).append(runs)

    rows: list[tuple[Value, ...]] = []
    for cells in groups.values():
        for first, second in itertools.combinations(cells, 2):
            one, two = _by_seed(first), _by_seed(second)
            # A seed that only one of them has says nothing of the difference.
            found = spread([one[seed] - two[seed] for seed in one if seed in two])
            if found.n:
                methods = (
                    _shown(run.cell.get("method")) for run in (first[0], second[0])
                )
                rows.append(
                    (
                        *methods,
                        *_values(first[0], others),
                        found.n,
                        found.mean,
                        found.half,
                    )
                )
    columns = ("method", "minus", *others, "n", "difference", "± 95 %")
    return Table(
        "differences",
        "Differences in test accuracy between methods on equal seeds",
        columns,
        tuple(rows),
    )


def cycle_table(records: Records) -> Table:
    """A row for each cycle of each cell that has several: the sparsity then, and the mean test accuracy at its end."""
    rows: list[tuple[Value, ...]] = []
    for runs in records.cells():
        most = max(len(run.result.cycles) for run in runs)
        for index in range(most if most > 1 else 0):
            ends = [
                r.result.cycles[index] for r in runs if index < len(r.result.cycles)
            ]
            found = spread([end.test_accuracy for end in ends])
            sparsity = spread([1 - end.density for end in ends]).mean
            cell = _values(runs[0], records.axes)
            rows.append((*cell, index, sparsity, found.n, found.mean, found.half))
    columns = (*records.axes, "cycle", "sparsity then", "n", "test accuracy", "± 95 %")
    return Table(
        "cycles",
        "Test accuracy at the end of each cycle, against the sparsity then",
        columns,
        tuple(rows),
    )


def _by_seed(runs: list[Record]) -> dict[int, float]:
    return {run.seed: run.result.test_accuracy for run in runs}


def _values(record: Record, axes: list[str]) -> list[Value]:
    """The values of a record on these axes, as they stand in a table."""
    cell: Mapping[str, Any] = record.cell
    return [_shown(cell.get(axis)) for axis in axes]


def _shown(value: Any) -> Value:
    """Numbers and texts as they are, other values as JSON."""
    if value is None or (isinstance(value, (str, int, float)) and value is not True):
        return value
    return json.dumps(value, default=str)
