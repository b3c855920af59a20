"""Step counts: whether the Scheduler is called as often as the optimizers make steps."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from sparsify_fx.errors import StepCountWarning, warn

# Calls of the Scheduler in which few steps of the optimizer are noticed.
SHORTEST = 8


class StepCounts:
    """Counts the steps of optimizers by their hooks, and warns when `Scheduler.step` does not follow each of them.

    A warning of each kind comes once. Optimizers without hooks, and those that make no step at all, are not counted.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._made, self._inside = [0] * len(optimizers), [0] * len(optimizers)
        self._calls = self._steps = 0
        self._warned: set[str] = set()
        for number, optimizer in enumerate(optimizers):
            if hasattr(optimizer, "register_step_pre_hook") and hasattr(
                optimizer, "register_step_post_hook"
            ):
                # An optimizer may outlive many Schedulers; its hooks go with the one that set them.
                enter, leave = _hooks(self._made, self._inside, number)
                for handle in (
                    optimizer.register_step_pre_hook(enter),
                    optimizer.register_step_post_hook(leave),
                ):
                    weakref.finalize(self, handle.remove)

    @property
    def pending(self) -> int:
        """Optimizer steps since the last call of the Scheduler: of the optimizer that made fewest."""
        return min(self._made)

    def follow(self, epoch: int) -> None:
        """Count one call of the Scheduler, whose epochs have `epoch` steps."""
        # Of several optimizers some may step rarely: too few calls are told by the slowest, too many by the fastest.
        made = max(self._made)
        if self.pending > 1:
            self._warn(
                "too few calls",
                f"the optimizer made {self.pending} steps since the last call of scheduler.step(): events come too "
                "late and the schedule ends unfinished; call it after every optimizer step (in Lightning with "
                "'interval': 'step')",
            )
        self._restart()
        self._calls, self._steps = self._calls + 1, self._steps + min(made, 1)
        # Over an epoch, for single calls without a step are usual: a gradient scaler skips steps that overflow.
        if self._calls >= max(epoch, SHORTEST):
            if 0 < self._steps <= self._calls / 2:
                self._warn(
                    "too many calls",
                    f"the optimizer made {self._steps} steps in the last {self._calls} calls of scheduler.step(): call "
                    "it only after an optimizer step; with gradient accumulation steps_per_epoch is batches / "
                    "accumulation",
                )
            self._calls = self._steps = 0

    def check_saved(self) -> None:
        """Warn when a state is taken between an optimizer step and the call of the Scheduler that follows it."""
        if self.pending > 0:
            self._warn(
                "saved between",
                "the state of the Scheduler is saved between an optimizer step and the scheduler.step() that follows "
                "it: a training that goes on from there misses one; save after scheduler.step()",
            )

    def forget(self) -> None:
        """Begin to count anew, after a state was loaded."""
        self._restart()
        self._calls = self._steps = 0

    def _restart(self) -> None:
        self._made[:] = [0] * len(self._made)
        # A step that raised was never left, and would hide all that follow it.
        self._inside[:] = [0] * len(self._inside)

    def _warn(self, kind: str, text: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            warn(text, StepCountWarning)


def _hooks(
    made: list[int], inside: list[int], number: int
) -> tuple[Callable[..., None], Callable[..., None]]:
    """(before, after) a step; they hold the lists alone, not the Scheduler, which may go before its optimizer.

    torch runs hooks around the `step` of every class: one that calls `super().step()` runs them twice for one step.
    """

    def enter(*_: Any) -> None:
        inside[number] += 1

    def leave(*_: Any) -> None:
        # Back at 0 the outermost step has ended; only this one counts.
        inside[number] = max(inside[number] - 1, 0)
        made[number] += not inside[number]

    # A compiled optimizer step would be compiled again for every count.
    return torch.compiler.disable(enter), torch.compiler.disable(leave)  # type: ignore[no-untyped-call]
