"""The timeline of a schedule: every event with its run, epoch and step, and how it prints."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from sparsify_fx.tables.shown import Shown


@dataclass(frozen=True)
class Event:
    """Something that the Scheduler does after `step` optimizer steps, or a fact that it only tells.

    An instance of this class itself is a fact; what is done is in the subclasses of `sparsify_fx.scheduler.events`.

    Attributes:
        run, epoch: the run (0 is the first) and the epoch within it.
        what: "prune", "snapshot", "rewind weights", "rescale", ...
        detail: "512 of 1000 weights, density 0.512", the rewind point, ...
        part: the part of the model that it concerns; "" when there is only one.
    """

    step: int
    run: int
    epoch: float
    what: str
    detail: str
    part: str = ""

    def perform(self) -> None:
        """Do it, in place. A fact has nothing to do: it holds by itself, or happens at every step."""

    @property
    def do(self) -> Callable[[], None]:
        """The name that `perform` had before 0.2; deprecated."""
        warnings.warn(
            "Event.do is now Event.perform; the old name goes with version 1.0",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.perform


@dataclass(frozen=True, repr=False)
class Timeline(Shown):
    """All events in order, and the runs; prints as a table.

    Attributes:
        events: what the Scheduler does at a step.
        facts: what is so from a step on, or happens all the time: the first mask, the learning rate, the penalty.
    """

    events: tuple[Event, ...]
    runs: int
    epochs: int
    steps: int
    facts: tuple[Event, ...] = ()

    def headline(self) -> str:
        """Runs, epochs, steps and the number of events."""
        return f"{len(self.events)} events in {self.runs} run(s), {self.epochs} epochs, {self.steps} steps"

    def rows(self) -> list[tuple[str, ...]]:
        """(run, epoch, step, event, detail), with the part in front where there are several.

        An event that repeats within a run takes one row.
        """
        groups: dict[tuple[str, int, str, str], list[Event]] = {}
        # Facts go first, and the sort is stable: at step 0 the first mask stands above what is done to it.
        for event in sorted((*self.facts, *self.events), key=lambda event: event.step):
            groups.setdefault(
                (event.part, event.run, event.what, event.detail), []
            ).append(event)
        return [self._row(members) for members in groups.values()]

    def _row(self, members: list[Event]) -> tuple[str, ...]:
        first, last = members[0], members[-1]
        # Three fit into a row; a hundred regrowths are told by the first two and the last.
        epochs = [f"{event.epoch:g}" for event in members]
        shown = (
            ", ".join(epochs)
            if len(epochs) <= 3
            else f"{epochs[0]}, {epochs[1]} … {epochs[-1]}"
        )
        steps = f"{first.step}" if len(members) == 1 else f"{first.step} … {last.step}"
        row = (str(first.run), shown, steps, first.what, first.detail)
        return (first.part or "all", *row) if self.parts else row

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts with plans of their own; none where one plan rules the model."""
        return tuple(
            dict.fromkeys(
                event.part for event in (*self.facts, *self.events) if event.part
            )
        )

    def table(self) -> Table:
        """The rows as a rich table."""
        table = Table(
            title=f"{self.runs} run(s), {self.epochs} epochs, {self.steps} optimizer steps"
        )
        for column in (
            *(("part",) if self.parts else ()),
            "run",
            "epoch",
            "step",
            "event",
            "detail",
        ):
            table.add_column(column)
        for row in self.rows():
            # As Text, since rich would take [brackets] in a detail for markup.
            table.add_row(*map(Text, row))
        return table
