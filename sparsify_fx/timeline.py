"""The timeline of a schedule: every event with its run, epoch and step, and how it prints."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Event:
    """Something that the Scheduler does after `step` optimizer steps.

    Attributes:
        run, epoch: the run (0 is the first) and the epoch within it.
        what: "prune", "snapshot", "rewind weights", "rescale", ...
        detail: "512 of 1000 weights, density 0.512", the rewind point, ...
        do: the deed.
    """

    step: int
    run: int
    epoch: float
    what: str
    detail: str
    do: Callable[[], None] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Timeline:
    """All events in order, and the runs; prints as a table."""

    events: tuple[Event, ...]
    runs: int
    epochs: int
    steps: int

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """(run, epoch, step, event, detail); an event that repeats within a run takes one row."""
        groups: dict[tuple[int, str, str], list[Event]] = {}
        for event in self.events:
            groups.setdefault((event.run, event.what, event.detail), []).append(event)
        rows = []
        for (run, what, detail), members in groups.items():
            epochs = [f"{event.epoch:g}" for event in members]
            shown = ", ".join(epochs) if len(epochs) <= 3 else f"{epochs[0]}, {epochs[1]} … {epochs[-1]}"
            steps = f"{members[0].step}" if len(members) == 1 else f"{members[0].step} … {members[-1].step}"
            rows.append((str(run), shown, steps, what, detail))
        return rows

    def table(self) -> Table:
        """The rows as a rich table."""
        table = Table(title=f"{self.runs} run(s), {self.epochs} epochs, {self.steps} optimizer steps")
        for column in ("run", "epoch", "step", "event", "detail"):
            table.add_column(column)
        for row in self.rows():
            table.add_row(*row)
        return table

    def __str__(self) -> str:
        buffer = io.StringIO()
        Console(file=buffer, width=110, color_system=None).print(self.table())
        return buffer.getvalue()

    __repr__ = __str__
