"""What a training shows while it runs: timeline, progress bar, one line per epoch, TensorBoard."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from sparsify_fx.programs.parameter_groups import ParameterGroups
from sparsify_fx.scheduler.scheduler import Scheduler
from sparsify_fx.train.run_folder import TENSORBOARD

_LOG = logging.getLogger(__name__)
_SCALARS = (
    "loss",
    "train_accuracy",
    "validation_accuracy",
    "test_accuracy",
    "density",
    "lr",
)


class ScalarWriter(Protocol):
    """The part of TensorBoard's SummaryWriter that is used here; the package itself may not be installed."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Record one number."""

    def add_text(self, tag: str, text_string: str) -> None:
        """Record a text."""

    def close(self) -> None:
        """Write everything to the disk."""


class Log:
    """Takes the steps and rows of a training, for a progress bar and for TensorBoard, each of which may be absent."""

    def __init__(
        self, bar: Progress | None, writer: ScalarWriter | None, done: int, total: int
    ) -> None:
        self._bar, self._writer, self._total = bar, writer, total
        self._task = (
            bar.add_task("steps", total=total, completed=done)
            if bar is not None
            else None
        )

    def advance(self) -> None:
        """Move the bar on by one optimizer step."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task)

    def row(self, row: Mapping[str, Any]) -> None:
        """Show an epoch's line above the bar and record its scalars; a disk that is full for them ends the records."""
        if self._bar is not None:
            # Through the bar's own console, which redraws the bar below the line instead of cutting it in two.
            self._bar.console.print(epoch_line(row), highlight=False, soft_wrap=True)
        if self._writer is not None:
            try:
                for name in _SCALARS:
                    if row.get(name) is not None:
                        self._writer.add_scalar(name, row[name], row["epoch"])
            # No reason to end a training: metrics.jsonl holds the same numbers.
            except OSError as error:
                _LOG.warning(
                    "TensorBoard's records end before epoch %s: %s", row["epoch"], error
                )
                self._writer = None


@contextmanager
def open_log(
    folder: Path,
    scheduler: Scheduler,
    groups: ParameterGroups,
    epochs_done: int,
    console: Console | None,
    tensorboard: bool,
) -> Iterator[Log]:
    """The log of a training of which `epochs_done` epochs are done; without a console nothing is shown."""
    _LOG.info("parameter groups of %s:\n%s", folder, groups)
    writer = _tensorboard(folder / TENSORBOARD, epochs_done) if tensorboard else None
    steps = scheduler.step_count
    if writer is not None and steps == 0:
        writer.add_text("parameter groups", f"<pre>{groups}</pre>")
    try:
        if console is None:
            yield Log(None, writer, steps, scheduler.steps)
            return
        if steps == 0:
            console.print(scheduler.timeline().table())
            console.print(groups.table())
        else:
            within = steps - epochs_done * scheduler.steps_per_epoch
            more = f" and {within} steps of the next one" if within else ""
            console.print(f"going on after epoch {epochs_done}{more}")
        with _bar(console) as bar:
            yield Log(bar, writer, steps, scheduler.steps)
    finally:
        if writer is not None:
            # The writer has a thread and a buffer of its own: a disk that became full may show only here.
            try:
                writer.close()
            except OSError as error:
                _LOG.warning("TensorBoard's records are not complete: %s", error)


def epoch_line(row: Mapping[str, Any]) -> str:
    """The one line of an epoch."""
    # Rows of older versions have no validation.
    accuracies = (
        (part, row.get(f"{part}_accuracy")) for part in ("validation", "test")
    )
    tested = "".join(
        f"  {part} {found:.4f}" for part, found in accuracies if found is not None
    )
    return (
        f"epoch {row['epoch']:>4}  run {row['run']:>2}  loss {row['loss']:.4f}"
        f"  train {row['train_accuracy']:.4f}{tested}"
        f"  density {row['density']:.4f}  lr {row['lr']:.4g}  {row['seconds']:.1f} s"
    )


def _bar(console: Console) -> Progress:
    # A terminal redraws the bar in place; in a file or a pipe each drawing would be another line.
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    )


def _tensorboard(folder: Path, epochs_done: int) -> ScalarWriter | None:
    """A writer that forgets what came after the epochs that are done; None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    # It may be there and not fit what else is: a protobuf older than its files raises an error of its own kind.
    except Exception as error:
        _LOG.warning("no records for TensorBoard, which cannot be imported: %s", error)
        return None
    # purge_step hides scalars of epochs that a kill cut off and that are trained again: curves would go back in time.
    try:
        writer: ScalarWriter = SummaryWriter(str(folder), purge_step=epochs_done + 1)
    except OSError as error:
        _LOG.warning("no records for TensorBoard: %s", error)
        return None
    return writer
