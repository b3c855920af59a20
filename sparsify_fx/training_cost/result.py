"""What `bench` found, as tables and as a document."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from sparsify_fx.tables.fitting import FittingTable, Grid, Value
from sparsify_fx.tables.shown import Shown
from sparsify_fx.training_cost.memory import KINDS, Memory
from sparsify_fx.training_cost.setting import Setting

DENSE, AGAIN = "dense", "dense again"


@dataclass(frozen=True)
class CaseCost:
    """The cost of one training.

    Attributes:
        steps: seconds of the step of every round.
        first_step: wall seconds of the first step, compiling included.
        graphs: graphs that torch.compile made in the first step; 0 when nothing is compiled.
        recompiles: graphs that it made afterwards, in steps and after prune events.
        prune_events: seconds of every mask update; empty where masks stay.
        memory: see `Memory`; None for the second dense training.
    """

    steps: list[float]
    first_step: float
    graphs: int
    recompiles: int
    prune_events: list[float]
    memory: Memory | None

    @property
    def median(self) -> float:
        """Seconds of a step."""
        return statistics.median(self.steps)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, with the samples."""
        return {
            "steps_seconds": self.steps,
            "first_step_seconds": self.first_step,
            "graphs": self.graphs,
            "recompiles": self.recompiles,
            "prune_events_seconds": self.prune_events,
            "memory_bytes": None if self.memory is None else self.memory.to_dict(),
        }


@dataclass(frozen=True, repr=False)
class Cost(Shown):
    """What sparse trainings cost beside a dense one.

    Attributes:
        setting: what is trained.
        method, sparsity: as given to `apply`.
        cases: by name; "dense" and "dense again" among them.
        surroundings: commit, processor, versions.
    """

    setting: Setting
    method: str
    sparsity: float
    cases: dict[str, CaseCost]
    surroundings: dict[str, Any]

    def headline(self) -> str:
        """What was trained, and each step beside the dense one."""
        ratios = (f"{n} {self.ratio(n):.2f}" for n in self.cases if n != DENSE)
        return f"{self._title()}; steps over dense: {', '.join(ratios)}"

    def tables(self) -> tuple[FittingTable, ...]:
        """Times and memory."""
        return tuple(grid.table() for grid in self.grids())

    def ratio(self, name: str) -> float:
        """The median step of a case over that of dense."""
        return self.cases[name].median / self.cases[DENSE].median

    def grids(self) -> tuple[Grid, Grid]:
        """Two tables: times, and memory."""
        return self._times(), self._memory()

    def to_dict(self) -> dict[str, Any]:
        """For JSON: everything, with the samples."""
        return {
            "setting": self.setting.to_dict(),
            "method": self.method,
            "sparsity": self.sparsity,
            "surroundings": self.surroundings,
            "of_dense": {name: self.ratio(name) for name in self.cases},
            "cases": {name: cost.to_dict() for name, cost in self.cases.items()},
        }

    def _title(self) -> str:
        what = self.setting
        compiled = ", compiled" if what.compile else ""
        return f"{what.work}, batch {what.batch}, {what.optimizer}{compiled}, {self.method} at {self.sparsity:g}"

    def _times(self) -> Grid:
        rows: list[tuple[Value, ...]] = []
        for name, cost in self.cases.items():
            events = cost.prune_events
            prune = 1e3 * statistics.median(events) if events else "-"
            recompiles = cost.recompiles if self.setting.compile else "-"
            first = cost.first_step
            ratio = f"{self.ratio(name):.2f}"
            rows.append((name, 1e3 * cost.median, ratio, first, recompiles, prune))
        columns = ("training", "step ms", "of dense", "first step s", "recompiles")
        return Grid(self._title(), (*columns, "prune event ms"), tuple(rows))

    def _memory(self) -> Grid:
        rows: list[tuple[Value, ...]] = []
        dense = self.cases[DENSE].memory
        for name, cost in self.cases.items():
            found = cost.memory
            if found is None or dense is None:
                continue
            kept = [_megabytes(found.kept[kind]) for kind in KINDS]
            peak, most = _megabytes(found.peak), _megabytes(found.with_activations)
            file = _megabytes(found.checkpoint)
            ratio = f"{found.peak / dense.peak:.2f}"
            rows.append((name, *kept, peak, ratio, most, file))
        columns = ("MB", *KINDS, "peak", "of dense", "with activations", "checkpoint")
        return Grid("Memory; the peak is beyond activations", columns, tuple(rows))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f}"
