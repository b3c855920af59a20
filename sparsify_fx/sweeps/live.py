"""The table of a sweep while it runs: a row for each cell, redrawn in place; a line for each trial in a pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from sparsify_fx.sweeps.driver import Sweep
from sparsify_fx.sweeps.grid import cells_of
from sparsify_fx.sweeps.ledger import Entry
from sparsify_fx.sweeps.spread import Spread, spread
from sparsify_fx.tables.fitting import FittingTable
from sparsify_fx.train.run_folder import METRICS


@contextmanager
def shown(console: Console) -> Iterator[Callable[[Sweep], None]]:
    """What to call again and again with a sweep, to show how far it is."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda sweep: live.update(sweep_table(sweep), refresh=True)
        return
    told: set[str] = set()

    def watch(sweep: Sweep) -> None:
        for name, outcome in sweep.outcomes.items():
            if name not in told:
                told.add(name)
                console.print(Text(_line(sweep, name, outcome.error)), soft_wrap=True)

    yield watch


def _line(sweep: Sweep, name: str, error: str) -> str:
    """The one line of a trial that ended."""
    count = f"{len(sweep.outcomes)}/{len(sweep.trials)}"
    outcome = sweep.outcomes[name]
    if error:
        return f"{count}  {name}  FAILED: {error}"
    return f"{count}  {name}  test {outcome.accuracies['test']:.4f}  {outcome.run}  {outcome.seconds:.1f} s"


def sweep_table(sweep: Sweep) -> FittingTable:
    """A row for each cell: trials finished, running and failed, epochs of those that run, accuracy so far."""
    entries = sweep.entries
    table = FittingTable(title=sweep.name, spare=("epochs",))
    table.add_column("cell")
    for column in ("finished", "failed", "epochs", "test accuracy"):
        table.add_column(column, justify="right")
    for cell, trials in cells_of(sweep.trials):
        own = [entries[trial.name] for trial in trials]
        finished = [entry for entry in own if entry.state == "finished"]
        failed = sum(entry.state == "failed" for entry in own)
        accuracies = spread(
            [
                sweep.outcomes[entry.name].accuracies["test"]
                for entry in finished
                if entry.name in sweep.outcomes
            ]
        )
        name = " ".join(
            str(v) if axis in ("recipe", "method") else f"{axis}={v}"
            for axis, v in cell.items()
        )
        table.add_row(
            name or sweep.name,
            f"{len(finished)}/{len(own)}",
            str(failed or ""),
            str(_epochs(sweep, own) or ""),
            accuracy_text(accuracies),
        )
    ended = sum(entry.state != "waiting" for entry in entries.values())
    table.caption = f"{ended} of {len(entries)} trials ended"
    return table


def accuracy_text(found: Spread) -> str:
    """The mean and half of the 95 % interval.

    >>> accuracy_text(Spread(1, 0.5, None))
    '0.5000'
    """
    if not found.n:
        return ""
    room = "" if found.half is None else f" ± {found.half:.4f}"
    return f"{found.mean:.4f}{room}"


def _epochs(sweep: Sweep, entries: list[Entry]) -> int:
    """Epochs that the unfinished trials of a cell have behind them, by the lines of their folders."""
    return sum(
        _lines(sweep.places[entry.name] / METRICS)
        for entry in entries
        if entry.name in sweep.jobs
    )


def _lines(file: Path) -> int:
    try:
        return file.read_bytes().count(b"\n")
    except OSError:
        return 0
