"""Checkpoints of a training: when one is due, what it holds in the middle of an epoch, and what it costs."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsify_fx.distributed.ranks import together
from sparsify_fx.distributed.wishes import Wishes
from sparsify_fx.errors import CheckpointError, PreemptedError
from sparsify_fx.train import generators
from sparsify_fx.train.run_folder import RunFolder
from sparsify_fx.train.session import Session
from sparsify_fx.train.signals import Asked

_LOG = logging.getLogger(__name__)
FIRST_CYCLE = "first-cycle.pt"
"""The checkpoint before the step that ends the first run (cycle), where it is kept."""
SHARE = 0.01
"""Of a run's time, for the checkpoints whose times the configuration leaves to us."""


@dataclass
class Within:
    """Where a training stands within an epoch.

    totals: loss · samples, correct and samples of the steps that are done, on the device; step: how many these are;
    seconds: what they took; checkpoint_seconds: what was spent on checkpoints since the last row; random: the states of
    all generators, None at the start of an epoch, which seeds them.
    """

    totals: Tensor
    step: int = 0
    seconds: float = 0.0
    checkpoint_seconds: float = 0.0
    random: Mapping[str, Any] | None = None


def within_of(state: Mapping[str, Any]) -> Within | None:
    """Where in an epoch a checkpoint was written; None for the end of one. CheckpointError for damage."""
    saved = state.get("within")
    if saved is None:
        return None
    try:
        return Within(**saved)
    except TypeError:
        raise CheckpointError(
            "the checkpoint does not tell where in its epoch it was written; train again with --force"
        ) from None


class Saver:
    """Writes checkpoints when they are due or a signal asks for one, and measures them.

    Args:
        asked: what signals ask for.
        within: where in its epoch the training goes on; None for the start of one.
        keep_at: the step after which the checkpoint is kept beside those that follow, as `FIRST_CYCLE`.

    Attributes:
        seconds: what was spent on checkpoints since `take_seconds`.
    """

    def __init__(
        self,
        session: Session,
        folder: RunFolder,
        asked: Asked,
        within: Within | None,
        keep_at: int | None = None,
    ) -> None:
        self._session, self._folder, self._asked = session, folder, asked
        self._resumed, self._keep_at = within, keep_at
        self.seconds = within.checkpoint_seconds if within else 0.0
        self._last = self._began = time.perf_counter()
        self._cost, self._wishes, self._wished = 0.0, Wishes(), False

    def begin(self, seed: int) -> Within:
        """Where the next epoch begins, with the generators as they shall be; `seed`: for an epoch from its start."""
        within, self._resumed = self._resumed, None
        device = self._session.config.device
        if within is None:
            within = Within(torch.zeros(3, device=device))
            generators.seed_all(seed)
        else:
            generators.restore(within.random or {}, device)
            within.totals = self._session.processes.begun(within.totals)
        # In float64 sums of a few thousand losses are exact, so it does not matter which process had which.
        if self._session.processes.pieces > 1:
            within.totals = within.totals.double()
        self._began = time.perf_counter() - within.seconds
        return within

    def elapsed(self) -> float:
        """Seconds of this epoch, without those of checkpoints."""
        return time.perf_counter() - self._began

    def take_seconds(self) -> float:
        """What was spent on checkpoints since the last call."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds

    def after_step(self, epoch: int, within: Within) -> None:
        """Call within epoch number `epoch` after each scheduler step: saves if it is time, and leaves if asked to.

        Raises PreemptedError, or KeyboardInterrupt after Ctrl-C, once the checkpoint is written.
        """
        leaving, late = _meant(self._wishes.ask(self._wish(self._late())))
        every, step = (
            self._session.config.checkpoint.steps,
            self._session.scheduler.step_count,
        )
        keeps = step == self._keep_at
        due = keeps or (every is not None and step % every == 0)
        if leaving is None and not late and not due:
            return
        totals = self._session.processes.summed(within.totals)
        within.seconds, within.checkpoint_seconds = self.elapsed(), self.seconds
        within.random = generators.states(self._session.config.device)
        self._save(epoch - 1, {"within": {**vars(within), "totals": totals}})
        if keeps and self._session.processes.main:
            self._folder.keep_checkpoint(FIRST_CYCLE)
        if leaving is not None:
            self._leave(leaving)

    def after_epoch(self, epoch: int) -> None:
        """The same after the line of an epoch is written; the end of the last epoch is always saved."""
        every = self._session.config.checkpoint_every
        last = epoch == self._session.scheduler.epochs
        due = self._affordable() if every == "auto" else epoch % every == 0
        leaving, due = _meant(self._wishes.now(self._wish(due)))
        if due or last or leaving is not None:
            self._save(epoch, {})
        if leaving is not None and not last:
            self._leave(leaving)

    def _wish(self, due: bool) -> int:
        """What this process tells the others: the signal that asked it to leave, and whether it wants to save."""
        # Signals count for more, whichever process has one. The first process writes, so its clock counts; it wishes
        # once, for the others know a step later.
        wants = due and self._session.processes.main and not self._wished
        self._wished |= wants
        return 2 * int(self._asked.by or 0) + wants

    def _late(self) -> bool:
        """Whether the time for a checkpoint within an epoch has come, by the clock."""
        minutes = self._session.config.checkpoint.minutes
        if minutes is None:
            return False
        late = time.perf_counter() - self._last >= 60 * minutes
        return late and self._affordable()

    def _affordable(self) -> bool:
        """Whether one more checkpoint like the last is at most `SHARE` of the time since then."""
        return time.perf_counter() - self._last >= self._cost * (1 / SHARE - 1)

    def _save(self, epochs: int, more: Mapping[str, Any]) -> None:
        """Write a checkpoint after `epochs` whole epochs."""
        # A GPU may be many steps behind; waiting for these is training and not the checkpoint's time.
        if torch.device(self._session.config.device).type != "cpu":
            torch.accelerator.synchronize()
        start = time.perf_counter()
        # All wait until it is written, and hear when that fails: whoever leaves or trains on relies on it.
        with together("writing a checkpoint"):
            if self._session.processes.main:
                self._folder.save_checkpoint(
                    {
                        "epoch": epochs,
                        **more,
                        "nonzeros": self._session.scheduler.nonzeros(),
                        **self._session.state_dict(),
                    }
                )
        self._last, self._wished = time.perf_counter(), False
        self._cost = self._last - start
        self._began += self._cost
        self.seconds += self._cost
        _LOG.debug(
            "checkpoint after step %d: %.3f s",
            self._session.scheduler.step_count,
            self._cost,
        )

    def _leave(self, by: signal.Signals) -> None:
        # What Python's users expect of Ctrl-C.
        if by == signal.SIGINT:
            raise KeyboardInterrupt
        scheduler = self._session.scheduler
        raise PreemptedError(
            f"{by.name}: saved after step {scheduler.step_count} of {scheduler.steps}; the same command goes on from "
            "there"
        )


def _meant(wish: int) -> tuple[signal.Signals | None, bool]:
    """(the signal to leave by, whether a checkpoint is due) of a wish."""
    number, saves = divmod(wish, 2)
    return (signal.Signals(number) if number else None), bool(saves)
