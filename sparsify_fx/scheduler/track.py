"""A track: one part's way through a schedule, with its mask updates, rewinds, actions, snapshots and penalty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from sparsify_fx.actions import TimedAction
from sparsify_fx.allocations import Pattern, RegrowingPattern
from sparsify_fx.criteria import CRITERIA, check_inputs, criterion_name
from sparsify_fx.distributed.ranks import mean_number
from sparsify_fx.errors import MethodError, SchedulerError
from sparsify_fx.learning_rate import Curve, TorchSchedule
from sparsify_fx.optimizer_states import following
from sparsify_fx.penalties import NoPenalty
from sparsify_fx.plan import Inputs
from sparsify_fx.programs.collapse import Collapse, find_collapse
from sparsify_fx.programs.owners import Subset
from sparsify_fx.rewinds import Epoch
from sparsify_fx.scheduler.clock import Clock, resolve
from sparsify_fx.scheduler.parts import Part, belonging
from sparsify_fx.scheduler.pruner import Pruner
from sparsify_fx.scheduler.refresh import refresh
from sparsify_fx.scheduler.smaller import check_plan
from sparsify_fx.scheduler.snapshots import (
    PARTS,
    Scope,
    rest,
    restless_programs,
    rewind,
    take_snapshot,
)
from sparsify_fx.scheduler.strengths import Strengths
from sparsify_fx.schedules import Budget, check_times
from sparsify_fx.schedules.occasion import Occasion
from sparsify_fx.schedules.updates import (
    MaskUpdate,
    Regrow,
    SettleAndPrune,
    late_criteria,
)
from sparsify_fx.sharding import reshard


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
        # 1. The updates, known from the start: the number of weights does not change, so neither do their budgets.
        self.total = part.total()
        self.updates: tuple[MaskUpdate, ...] = axes.schedule.updates(
            Budget(self.total, self.plan.sparsity, epochs)
        )
        check_times(self.updates, epochs, clock.steps_per_epoch)
        fixed = isinstance(axes.allocation, Pattern)
        fixed = fixed and not isinstance(axes.allocation, RegrowingPattern)
        if fixed and any(isinstance(update, Regrow) for update in self.updates):
            raise MethodError(
                f"{self.plan.method}: regrowing breaks the pattern {axes.allocation}; use allocation='erk'"
            )

        # 2. Rewind points, at steps that the first run really makes: later runs go back to its snapshots.
        self.points = {
            point: resolve(point, curve, epochs) for point in axes.rewind.points()
        }
        for point, at in self.points.items():
            if clock.step_of(0, at) >= epochs * clock.steps_per_epoch:
                raise SchedulerError(
                    f"rewind point {point!r} is epoch {at:g}, which no step of a run of {epochs} reaches"
                )

        # 3. What the events work with.
        self.pruner = self._pruner(optimizers, inputs)
        self._scope = Scope(part.model, part.view(), optimizers, names)
        # Only one update settles, the last; the strength of a penalty aims at its step.
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
        # What `apply` cut off is known from here on, so that updates tell only what they add.
        self._collapse = self._look("at initialization")
        self._restless = restless_programs(part.view(), optimizers)
        self._batch: Inputs | None = None

    def _pruner(self, optimizers: Sequence[Optimizer], given: Inputs) -> Pruner:
        axes, part = self.plan.axes, self.part
        # The key is the module of `apply`: a copy of it finds nothing and has to be given batches here.
        known = self.plan.inputs.get(part.root, Inputs())
        inputs = Inputs(given.batches or known.batches, given.loss_fn or known.loss_fn)
        # Without updates nothing will ever be scored, and inputs need not be there.
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
        # What `apply` was given it has tried itself.
        if given.batches is None:
            return pruner
        pruner = self._whole(pruner, inputs) if part.prefix else pruner
        # They fail now rather than at their first update, hours later.
        for criterion in late_criteria(axes.criterion, self.updates):
            pruner.rehearse(criterion)
        return pruner

    def _whole(self, pruner: Pruner, inputs: Inputs) -> Pruner:
        """Batches that the Scheduler was given are for the whole model; those of `apply` are for its module."""
        return pruner.reading(
            self.part.model, Subset(self.part.named_in_model()), inputs
        )

    # ------------------------------------------------------------------ what the events do

    def update_masks(self, update: MaskUpdate, draw: int) -> None:
        """Change the masks as the schedule wants it now, and tell of layers that lost all their weights.

        Args:
            draw: number of the update in the training, from 1.
        """
        check_plan(self.part)
        pruner = self.pruner
        # RigL grows by the gradient of the batch that was just trained on; other updates keep to their own batches.
        if self._batch is not None and _scores_current_batch(update):
            pruner = self._whole(pruner, self._batch)
        update.apply(pruner, draw)

        # What was cut off before was told then; a warning at each pruning would hide the first one.
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

    def take_snapshot(self, point: Epoch) -> None:
        """Copy what goes back to `point` at later runs; of the rest a copy would only take memory."""
        parts = [
            part for part in PARTS if getattr(self.plan.axes.rewind, part) == point
        ]
        self.snapshots[str(point)] = take_snapshot(self._scope, parts)

    def rewind(self, part: str, point: Epoch) -> None:
        """Bring one of `PARTS` back to the snapshot of `point`, under the current masks."""
        check_plan(self.part)
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

    def act(self, action: TimedAction, run: int, epoch: float) -> None:
        """Let an action change the part's weights in place."""
        factors: list[nn.Parameter] = []
        for program in self.part.programs.values():
            factors += program.factor_tensors().values()
        # Optimizers that keep weights of their own (an average, a fast copy) would undo the change at their next step.
        with following(self.pruner.optimizers, factors):
            action(self.part.view(), self._occasion(run, epoch))

    def rest(self) -> None:
        """What an optimizer step moved without a gradient goes back to zero."""
        rest(self._restless, self.pruner.optimizers)

    def refresh(self, step: int, steps: int) -> None:
        """Temperatures and noise of the optimizer step that follows `step` of `steps`; of the last at the end."""
        # Gates that settled after the last step stay so, also where a finished training is loaded.
        if step == steps == self.settles:
            return
        now = min(step, steps - 1)
        refresh(self.part.view(), self.clock, self.updates, self.plan.seed, now)

    def term(self) -> Tensor:
        """What the penalty adds to the loss (0-dimensional)."""
        # After a forward FSDP leaves the outermost weights whole, and terms of them would not meet those of shards.
        if not isinstance(self.plan.axes.penalty, NoPenalty):
            reshard(self.part.model)
        return self.strengths.term()

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
        # One layer without a mask counts as a part without: masks are put in for all or for none.
        return (
            sum(int(mask.sum()) for mask in masks if mask is not None)
            if None not in masks
            else self.total
        )

    def state_dict(self) -> dict[str, Any]:
        """What a part adds to a checkpoint, as plain types and tensors only."""
        return {
            "strengths": self.strengths.state_dict(),
            "snapshots": dict(self.snapshots),
            "notes": list(self.notes),
            **self.pruner.tickets.as_entry(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        # The dict is copied, its tensors are not: nothing writes into a snapshot.
        self.snapshots = dict(state["snapshots"])
        self.strengths.load_state_dict(state["strengths"])
        self.notes = list(state.get("notes", ()))
        self.pruner.tickets.load(state.get("tickets", {}))


def _scores_current_batch(update: MaskUpdate) -> bool:
    if not isinstance(update, Regrow):
        return False
    growth = CRITERIA[update.growth]
    return "batches" in growth.needs and getattr(growth, "current_batch", True)


def tracks_of(
    model: nn.Module,
    parts: Sequence[Part],
    optimizers: Sequence[Optimizer],
    clock: Clock,
    curve: Curve | TorchSchedule,
    inputs: Inputs,
) -> list[Track]:
    """A track for each part of the model; with several of them, each with the state that belongs to it alone."""
    owner = belonging(tuple(parts), iter(model.state_dict())) if len(parts) > 1 else {}
    tracks = []
    for number, part in enumerate(parts):
        # None, not every name: a single part takes the whole model, whatever is registered in it until the snapshot.
        names = (
            frozenset(name for name, of in owner.items() if of == number)
            if owner
            else None
        )
        tracks.append(Track(part, names, tuple(optimizers), clock, curve, inputs))
    return tracks
