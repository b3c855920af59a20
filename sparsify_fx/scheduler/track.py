"""A track: one part's way through a schedule, with its mask updates, rewinds, actions, snapshots and penalty."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.optim import Optimizer

from sparsify_fx.actions import TimedAction, action_label
from sparsify_fx.allocations import Pattern
from sparsify_fx.criteria import CRITERIA, check_inputs, criterion_name
from sparsify_fx.distributed.ranks import mean_number
from sparsify_fx.errors import MethodError, SchedulerError
from sparsify_fx.learning_rate import Curve, TorchSchedule
from sparsify_fx.optimizer_states import following
from sparsify_fx.parameterizations import ByLayer
from sparsify_fx.plan import Inputs, remembered_inputs
from sparsify_fx.programs.collapse import Collapse, find_collapse
from sparsify_fx.programs.owners import Subset
from sparsify_fx.recipe import describe
from sparsify_fx.rewinds import Epoch
from sparsify_fx.scheduler.clock import Clock, resolve
from sparsify_fx.scheduler.parts import Part
from sparsify_fx.scheduler.pruner import Pruner
from sparsify_fx.scheduler.refresh import refresh
from sparsify_fx.scheduler.snapshots import (
    PARTS,
    Scope,
    rest,
    restless_programs,
    rewind,
    take_snapshot,
)
from sparsify_fx.scheduler.strengths import Strengths
from sparsify_fx.scheduler.timeline import Event
from sparsify_fx.schedules import Budget, check_times
from sparsify_fx.schedules.occasion import Occasion
from sparsify_fx.schedules.updates import (
    MaskUpdate,
    Prune,
    Regrow,
    SettleAndPrune,
    late_criteria,
)


class Track:
    """What happens to one part, and when; nothing happens at construction.

    Args:
        names: the tensors of the model's state dict that are rewound with the part; None for all of them.
        inputs: batches for the whole model and a loss, or those that `apply` was given where they are None.

    Raises SchedulerError for times that do not fit, MethodError for a criterion without its inputs.
    """

    def __init__(
        self,
        part: Part,
        names: frozenset[str] | None,
        optimizers: Sequence[Optimizer],
        clock: Clock,
        curve: Curve | TorchSchedule,
        inputs: Inputs,
    ) -> None:
        self.part, self.clock, self.plan = part, clock, part.plan
        axes, epochs = self.plan.axes, clock.run_epochs
        self.total = part.total()
        self.updates: tuple[MaskUpdate, ...] = axes.schedule.updates(
            Budget(self.total, self.plan.sparsity, epochs)
        )
        check_times(self.updates, epochs, clock.steps_per_epoch)
        if isinstance(axes.allocation, Pattern) and any(
            isinstance(update, Regrow) for update in self.updates
        ):
            raise MethodError(
                f"{self.plan.method}: regrowing breaks the pattern {axes.allocation}; use allocation='erk'"
            )
        self.points = {
            point: resolve(point, curve, epochs) for point in axes.rewind.points()
        }
        for point, at in self.points.items():
            if clock.step_of(0, at) >= epochs * clock.steps_per_epoch:
                raise SchedulerError(
                    f"rewind point {point!r} is epoch {at:g}, which no step of a run of {epochs} reaches"
                )
        self.pruner = self._pruner(optimizers, inputs)
        self._scope = Scope(part.model, part.view(), optimizers, names)
        ends = [
            clock.step_of(u.run, u.epoch)
            for u in self.updates
            if isinstance(u, SettleAndPrune)
        ]
        self.settles = ends[0] if ends else None
        self.strengths = Strengths(
            axes.penalty,
            part.view(),
            clock,
            self.plan.sparsity,
            self.settles,
            self._occasion,
        )
        self.snapshots: dict[str, dict[str, Any]] = {}
        self.notes: list[str] = []
        self._collapse = self._look("at initialization")
        self._restless = restless_programs(part.view(), optimizers)
        self._batch: Inputs | None = None

    def _pruner(self, optimizers: Sequence[Optimizer], given: Inputs) -> Pruner:
        axes, part = self.plan.axes, self.part
        known = remembered_inputs(part.root, self.plan)
        inputs = Inputs(given.batches or known.batches, given.loss_fn or known.loss_fn)
        if self.updates:
            check_inputs(
                criterion_name(axes.criterion),
                axes.criterion.needs,
                inputs.batches,
                inputs.loss_fn,
            )
            check_inputs(
                self.plan.method, axes.schedule.needs, inputs.batches, inputs.loss_fn
            )
        pruner = Pruner(part.root, part.view(), optimizers, self.plan, inputs)
        if given.batches is None:
            return pruner  # apply has rehearsed
        pruner = self._whole(pruner, inputs) if part.prefix else pruner
        for criterion in late_criteria(axes.criterion, self.updates):
            pruner.rehearse(criterion)
        return pruner

    def _whole(self, pruner: Pruner, inputs: Inputs) -> Pruner:
        """Batches that the Scheduler was given are for the whole model; those of `apply` are for its module."""
        return pruner.reading(
            self.part.model, Subset(self.part.named_in_model()), inputs
        )

    # ------------------------------------------------------------------ events

    def events(self) -> Iterator[Event]:
        """Every event of the part, those at one step in the order in which they happen."""
        axes, clock = self.plan.axes, self.clock
        for draw, update in enumerate(self.updates, start=1):
            do = functools.partial(self._update, update, draw)
            yield self._event(update.run, update.epoch, *update.label(self.total), do)
        runs = axes.schedule.runs(self.plan.sparsity)
        for run in range(1, runs):
            for part in PARTS:
                point = getattr(axes.rewind, part)
                if point is not None:
                    go_back = functools.partial(self._rewind, part, point)
                    yield self._event(run, 0, f"rewind {part}", f"to {point}", go_back)
            if axes.rewind.learning_rate is not None:
                yield self._event(
                    run,
                    0,
                    "rewind learning rate",
                    f"to {axes.rewind.learning_rate}",
                    _by_the_clock,
                )
        for run in range(clock.runs):
            for action in axes.actions:
                what, detail = action_label(action)
                for epoch in action.epochs(clock.length(run), run, clock.runs):
                    act = functools.partial(self._act, action, run, epoch)
                    yield self._event(run, epoch, what, detail, act)
        for point, at in self.points.items():
            yield self._event(
                0,
                at,
                "snapshot",
                f"at {point}",
                functools.partial(self._snapshot, point),
            )

    def facts(self) -> Iterator[Event]:
        """What is so from the start or happens by itself, for the timeline: the first mask, the penalty, the gates."""
        axes, kept = (
            self.plan.axes,
            self.plan.axes.schedule.initial(Budget(self.total, self.plan.sparsity)),
        )
        if kept is None:
            yield self._event(
                0, 0, "no mask", f"all {self.total} weights stay", _by_the_clock
            )
        elif kept < self.total:
            chosen = f"{criterion_name(axes.criterion)}, {_name('allocation', axes.allocation)}"
            detail = f"{chosen}: keep {kept} of {self.total} weights, density {kept / self.total:.6g}"
            yield self._event(0, 0, "mask at initialization", detail, _by_the_clock)
        elif not self.updates:
            yield self._event(
                0,
                0,
                "mask at initialization",
                f"all {self.total} weights stay",
                _by_the_clock,
            )
        for note in self.notes:
            yield self._event(0, 0, "collapse", note, _by_the_clock)
        penalty = _name("penalty", axes.penalty)
        if penalty != "none":
            until = (
                ""
                if self.settles is None or not self.strengths.adaptive
                else f", until step {self.settles}"
            )
            how = "strength adapts" if self.strengths.adaptive else "constant strength"
            detail = f"{penalty}, {how}{until}"
            yield self._event(0, 0, "penalty", detail, _by_the_clock)
        if isinstance(axes.parameterization, ByLayer):
            yield self._event(
                0, 0, "parameterizations", str(axes.parameterization), _by_the_clock
            )
        stateful = [
            program.parameterization
            for program in self.part.programs.values()
            if program.state_tensors()
        ]
        if stateful:
            names = dict.fromkeys(_name("parameterization", how) for how in stateful)
            detail = f"{', '.join(names)}: state changes before every step"
            yield self._event(0, 0, "refresh", detail, _by_the_clock)

    def _event(
        self, run: int, epoch: float, what: str, detail: str, do: Callable[[], None]
    ) -> Event:
        return Event(
            self.clock.step_of(run, epoch), run, epoch, what, detail, do, self.part.name
        )

    # ------------------------------------------------------------------ what the events do

    def _update(self, update: MaskUpdate, draw: int) -> None:
        pruner = self.pruner
        if self._batch is not None and _scores_current_batch(update):
            pruner = self._whole(pruner, self._batch)
        update(pruner, draw)
        before, step = self._collapse, self.clock.step_of(update.run, update.epoch)
        self._collapse = self._look(f"at step {step}", before)
        if self._collapse.exceeds(before):
            self._collapse.warn(self.part.says(f"{self.plan.method} at step {step}"))

    def _look(self, when: str, before: Collapse | None = None) -> Collapse:
        """What the masks cut off now; a note where that is more than before."""
        found = find_collapse(
            self.pruner.scored, self.pruner.masks(), self.pruner.inputs.batches
        )
        if found.exceeds(before):
            self.notes.append(self.part.says(f"{when} {found.sentence()}"))
        return found

    def _snapshot(self, point: Epoch) -> None:
        parts = [
            part for part in PARTS if getattr(self.plan.axes.rewind, part) == point
        ]
        self.snapshots[str(point)] = take_snapshot(self._scope, parts)

    def _rewind(self, part: str, point: Epoch) -> None:
        rewind(part, self._scope, self.snapshots[str(point)])

    def _occasion(self, run: int, epoch: float) -> Occasion:
        """That moment, asked for when it has come: with the accuracy of then."""
        return Occasion(
            run=run,
            epoch=epoch,
            seed=self.plan.seed,
            length=self.clock.length(run),
            runs=self.clock.runs,
            optimizers=self.pruner.optimizers,
            accuracy=mean_number(self.strengths.last_accuracy, "the last accuracy"),
        )

    def _act(self, action: TimedAction, run: int, epoch: int) -> None:
        factors = [
            f
            for program in self.part.programs.values()
            for f in program.factor_tensors().values()
        ]
        with following(self.pruner.optimizers, factors):
            action(self.part.view(), self._occasion(run, epoch))

    def rest(self) -> None:
        """What an optimizer step moved without a gradient goes back to zero."""
        rest(self._restless, self.pruner.optimizers)

    def refresh(self, step: int) -> None:
        """Temperatures and noise of the optimizer step that follows `step` others."""
        refresh(self.part.view(), self.clock, self.updates, self.plan.seed, step)

    def no_room(self) -> str:
        """Why this schedule cannot begin with the masks of now; empty when it can.

        A model that was pruned already has fewer weights than the first prunings of a new schedule keep.
        """
        alive = self.nonzeros()
        for update in self.updates:
            after = update.alive(alive, self.total)
            if isinstance(update, (Prune, SettleAndPrune)) and after > alive:
                return self.part.says(
                    f"the masks keep {alive} of {self.total} weights already, and {self.plan.method} keeps {after} at "
                    f"epoch {update.epoch:g} of run {update.run}: the model has been pruned before. Call "
                    "sparsify_fx.merge(model) and apply again for a new schedule, or load the saved state of this one"
                )
            alive = after
        return ""

    # ------------------------------------------------------------------ the current batch

    def needs_batch(self, step: int) -> bool:
        """Whether an update after `step` steps scores the batch of that step, as its paper does."""
        due = [u for u in self.updates if self.clock.step_of(u.run, u.epoch) == step]
        return any(_scores_current_batch(update) for update in due)

    def score_on(self, batch: Inputs | None) -> None:
        """Let such updates read `batch`, which is for the whole model."""
        self._batch = batch

    # ------------------------------------------------------------------ state

    def nonzeros(self) -> int:
        """Weights that the masks keep now; all where there is no mask."""
        masks = [program.current_mask() for program in self.part.programs.values()]
        return (
            sum(int(mask.sum()) for mask in masks if mask is not None)
            if None not in masks
            else self.total
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain types and tensors only."""
        return {
            "strengths": self.strengths.state_dict(),
            "snapshots": dict(self.snapshots),
            "notes": list(self.notes),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.snapshots = dict(state["snapshots"])
        self.strengths.load_state_dict(state["strengths"])
        self.notes = list(state.get("notes", ()))


def _scores_current_batch(update: MaskUpdate) -> bool:
    return isinstance(update, Regrow) and "batches" in CRITERIA[update.growth].needs


def _by_the_clock() -> None:
    """The learning rate goes back through `Rates`, which counts from the start of each run."""


def _name(axis: str, value: Any) -> str:
    described = describe(axis, value)
    return described["name"] if isinstance(described, dict) else str(described)
