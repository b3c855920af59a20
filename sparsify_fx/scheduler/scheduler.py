"""The Scheduler: after every optimizer step it prunes, rewinds, rescales and sets the learning rate, as planned."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from sparsify_fx.distributed.ranks import check_equal_masks
from sparsify_fx.distributed.sharded import check_sharded
from sparsify_fx.errors import SchedulerError
from sparsify_fx.learning_rate import Curve, TorchSchedule, find_curve
from sparsify_fx.plan import Inputs
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.progress import UNKNOWN, Progress
from sparsify_fx.scheduler.agenda import agenda
from sparsify_fx.scheduler.clock import make_clock, runs_of
from sparsify_fx.scheduler.events import run_events
from sparsify_fx.scheduler.fingerprint import check_state, digest, fingerprint
from sparsify_fx.scheduler.guards import (
    check_finite,
    check_in_step,
    check_optimizers,
    check_ties,
    no_room,
)
from sparsify_fx.scheduler.parts import parts_of
from sparsify_fx.scheduler.rates import Rates
from sparsify_fx.scheduler.readings import Readings
from sparsify_fx.scheduler.step_counts import StepCounts
from sparsify_fx.scheduler.storage import fit_all
from sparsify_fx.scheduler.timeline import Event
from sparsify_fx.scheduler.track import tracks_of
from sparsify_fx.scheduler.undo import Undo
from sparsify_fx.sharding import reshard


class Scheduler(Readings):
    """Drives the events of a sparse training, one call of `step()` after each optimizer step.

    The whole training is a sequence of runs: the first has `epochs` epochs; every later one starts with a pruning and
    the method's rewinds. At one step the order is: prune, rewind, timed actions (rescale), snapshot; then learning
    rate, penalty strength, temperatures and noise of the next step. Everything changes in place: no recompile.

    A model that several calls of `apply` prepared has parts: each follows its own plan, to its own number of weights.
    The schedule has as many runs as the longest of them needs.

    Built on the weights of an unfinished training of the same schedule, it waits for `load_state_dict`.

    Args:
        model: prepared by `sparsify_fx.apply`.
        optimizer: built after `apply`, with the peak learning rate in its groups; or several of them.
        epochs: the length of one run.
        steps_per_epoch: optimizer steps in an epoch (with gradient accumulation: batches / accumulation, rounded as the
            loop does with the last batches of an epoch).
        learning_rate: the curve of every run: "cosine-warmup", "step-warmup", "triangular", "imagenet", "constant", a
            `Curve`, or a function optimizer -> torch scheduler (made anew for every run, stepped every optimizer step).
            None leaves the optimizer's rate to others.
        batches, loss_fn: for criteria that need data; None takes those that `apply` was given.
        start_over: begin at step 0 on weights of an unfinished training of the same schedule.

    Attributes:
        epochs: the total over all runs.
        steps: the total of optimizer steps.
        steps_per_epoch: as given.

    Raises:
        SchedulerError: an optimizer that does not train the rewritten weights, or impossible times.
        MethodError: a model without a plan, or a criterion without its inputs.
        After an error model and optimizer are as they were.

    >>> import sparsify_fx, torch
    >>> model = sparsify_fx.apply(nn.Linear(10, 10), method="lrr", sparsity=0.5)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> scheduler = Scheduler(model, optimizer, epochs=3, steps_per_epoch=5)
    >>> scheduler.epochs
    15
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        *,
        epochs: int,
        steps_per_epoch: int,
        learning_rate: str | Curve | TorchSchedule | None = "cosine-warmup",
        batches: Iterable[Any] | None = None,
        loss_fn: Callable[[Any, Any], Tensor] | None = None,
        start_over: bool = False,
    ) -> None:
        # 1. Refuse what no schedule could train, before anything else looks at the model.
        check_sharded(model)
        parts = parts_of(model)
        check_ties(model)
        check_equal_masks(programs(model), "in Scheduler(...)")
        self.model, self.optimizers = model, check_optimizers(model, optimizer)

        # 2. One clock for all parts, since they share the optimizer steps and the learning rate.
        curve = find_curve(learning_rate)
        restart, runs = runs_of(parts, curve)
        self._clock = make_clock(epochs, steps_per_epoch, runs, restart, curve)
        self.epochs, self.steps = self._clock.epochs, self._clock.steps
        self.steps_per_epoch = steps_per_epoch

        # 3. Each part plans its own events. Nothing is written before `_begin`, so that an error leaves all as it was.
        self._tracks = tracks_of(
            model, parts, self.optimizers, self._clock, curve, Inputs(batches, loss_fn)
        )
        self.total_weights = sum(track.total for track in self._tracks)
        self._events = agenda(self._tracks)
        # Looked up at every step; a schedule may have 100,000 updates.
        self._due: dict[int, list[Event]] = defaultdict(list)
        for event in self._events:
            self._due[event.step].append(event)
        self._rates = Rates(
            self.optimizers, curve, self._clock, restarts=restart is not None
        )
        self._fingerprint = fingerprint(self._tracks, self._clock, curve)
        self._counts = StepCounts(self.optimizers)
        self._undo: Undo | None = None
        self._no_room, self._step = "", 0

        fit_all(self.optimizers)
        self._begin(start_over)

    def step(self) -> None:
        """Call after each optimizer step: does what is due and sets the learning rate of the next step.

        Raises SchedulerError after the last step of the schedule, and when the weights are those of another step;
        TrainingError at the end of an epoch after which weights hold NaN.
        """
        if self.finished:
            raise SchedulerError(
                f"the schedule ended after {self.steps} steps ({self.epochs} epochs); stop training"
            )
        # Before anything counts or writes: a caller who loaded one of two states can still load the other.
        check_in_step(self._step, self.steps, self._progress(), self._no_room)

        # The training goes on from here, so no state of another step follows, and the copies can go.
        self._undo = None
        reshard(self.model)
        self._counts.follow(self.steps_per_epoch)
        # Before the events: scores of NaN would choose masks. Once an epoch, since to look waits for the device.
        if (self._step + 1) % self.steps_per_epoch == 0:
            check_finite(self.model, (self._step + 1) // self.steps_per_epoch)
        self._step += 1
        for track in self._tracks:
            track.rest()  # optimizers that mix the entries of a matrix move pruned ones too
        if self._step < self.steps:
            self._do_events()
            self._rates.set(self._step)
            self._advance()
        else:
            # A last pruning alone: nothing would train on the rest.
            self._do_events(only="settle and prune")
            check_equal_masks(programs(self.model), "after the last step")
        # Last: after an error above the weights tell the step before, and the next call refuses to go on.
        self._record()

    def penalty(self) -> Tensor:
        """The method's term to add to the loss (0-dimensional, differentiable); 0 when there is none.

        Or `scheduler.penalty().backward()` before the optimizer step, where a trainer computes the loss.
        """
        first, *others = (track.term() for track in self._tracks)
        term = sum(others, start=first)
        # A term of 0 has no graph, and `penalty().backward()` shall work for every method.
        return term if term.requires_grad else term.detach().requires_grad_()

    def observe(self, *, accuracy: float) -> None:
        """Give the training accuracy of an epoch, in [0, 1], before the `step()` that ends it; `pilot` needs it."""
        for track in self._tracks:
            track.strengths.observe(accuracy)

    def score_on(
        self,
        inputs: Any,
        targets: Any,
        loss_fn: Callable[[Any, Any], Tensor] | None = None,
    ) -> None:
        """Let the next `step()` score on this batch of the whole model in place of `batches`; when `needs_batch`.

        Args:
            inputs, targets: as one pair of `batches`.
            loss_fn: loss_fn(outputs, targets) -> scalar; None takes the one given before.
        """
        for track in self._tracks:
            track.score_on(
                Inputs([(inputs, targets)], loss_fn or track.pruner.inputs.loss_fn)
            )

    def state_dict(self) -> dict[str, Any]:
        """Plain types and tensors only: loadable with `torch.load(..., weights_only=True)`.

        Take it after `step()`. Between an optimizer step and `step()` it is of the step before: a StepCountWarning.
        """
        self._counts.check_saved()
        # One part is saved flat, as before there were parts; a state of either form is read.
        states = [track.state_dict() for track in self._tracks]
        parts = states[0] if len(states) == 1 else {"parts": states}
        state = {
            "step": self._step,
            "rates": self._rates.state_dict(),
            "fingerprint": self._fingerprint,
        }
        return state | parts

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken; load the states of the model and the optimizer too, in any order.

        Raises SchedulerError when the state belongs to another method, sparsity, seed or length.
        """
        reshard(self.model)
        step = check_state(state, self._fingerprint, self.steps)

        # 2. Take back what step 0 did at construction: it was done in the training that is loaded, before its steps.
        if self._undo is not None:
            self._undo.optimizers()
            # Weights that were loaded since tell their step and are right. Taken back are those of an unknown step, and
            # those of a finished training whose script runs again.
            steps = {progress.step for progress in self._progress()}
            if UNKNOWN in steps or (step == self.steps and steps == {0}):
                self._undo.weights()
        self._undo, self._no_room = None, ""

        # 3. Rates before tracks: they may refuse, and the others do not.
        self._rates.load_state_dict(state["rates"], step)
        for track, saved in zip(self._tracks, state.get("parts", [state]), strict=True):
            track.load_state_dict(saved)
        self._step = step

        # Hooks have counted steps of a training that is gone; temperatures and noise follow from the step.
        self._counts.forget()
        fit_all(self.optimizers, all(p.step == step for p in self._progress()))
        self._refresh()

    def _begin(self, start_over: bool) -> None:
        """The events of step 0, once in a training: weights that were loaded went through them."""
        schedule, progress = digest(self._fingerprint), self._progress()

        # 1. Whose are the weights? Those in the middle of this schedule wait for its state: `step` asks for it, and
        # optimizers that were loaded keep their rates.
        ours = not start_over and all(p.schedule == schedule for p in progress)
        going_on = ours and all(p.step < p.steps for p in progress)
        if going_on and any(p.step > 0 for p in progress):
            return

        # 2. A pruned model may have fewer weights than the first prunings keep. Told at the first step and not here,
        # since the state that belongs to these weights may still be loaded.
        if not going_on:
            told = (no_room(track) for track in self._tracks)
            self._no_room = next(filter(None, told), "")

        # 3. Keep what step 0 changes, as far as a later state could make it wrong. Weights of version 0.1 may be of
        # any step; those of a finished training are there when its script runs again. A snapshot changes nothing.
        old = any(p.step == UNKNOWN for p in progress)
        keep = old or (ours and not going_on)
        changes = any(event.what != "snapshot" for event in self._due.get(0, ()))
        self._undo = Undo(
            self.model, self.optimizers, progress, weights=keep, states=changes
        )

        # 4. Rates first: a factory of torch schedulers may refuse, and nothing is written yet.
        self._rates.set(0)
        for each in progress:
            each.schedule, each.steps = schedule, self.steps
        # Weights saved at step 0 went through its events; the snapshots are in no state dict of a model.
        self._do_events(only="snapshot" if going_on else None)
        self._advance()
        # A step that nobody knows is not 0: a saved state may tell it.
        if not old:
            self._record()

    def _progress(self) -> list[Progress]:
        return [track.part.progress for track in self._tracks]

    def _record(self) -> None:
        for progress in self._progress():
            progress.step = self._step

    def _do_events(self, only: str | None = None) -> None:
        run_events(
            self.model,
            self._step,
            [e for e in self._due.get(self._step, ()) if only in (None, e.what)],
        )

    def _advance(self) -> None:
        for track in self._tracks:
            track.strengths.advance(self._step)
            track.score_on(None)
        self._refresh()

    def _refresh(self) -> None:
        for track in self._tracks:
            track.refresh(self._step, self.steps)
