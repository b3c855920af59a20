"""The Scheduler: after every optimizer step it prunes, rewinds, rescales and sets the learning rate, as planned."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from sparsify_fx.actions import Occasion, action_label
from sparsify_fx.allocations import Pattern
from sparsify_fx.clock import make_clock, resolve
from sparsify_fx.criteria import check_inputs, criterion_name
from sparsify_fx.errors import RecipeError, SchedulerError
from sparsify_fx.learning_rate import Curve, TorchSchedule, find_curve
from sparsify_fx.mask_updates import Regrow, SettleAndPrune
from sparsify_fx.masks import nonzeros
from sparsify_fx.owners import programs
from sparsify_fx.plan import remembered_inputs, require_plan
from sparsify_fx.pruner import Pruner
from sparsify_fx.rates import Rates
from sparsify_fx.refresh import refresh
from sparsify_fx.rewinds import Epoch
from sparsify_fx.schedules import Budget, check_times
from sparsify_fx.snapshots import PARTS, rewind, take_snapshot
from sparsify_fx.strengths import Strengths
from sparsify_fx.timeline import Event, Timeline


class Scheduler:
    """Drives the events of a sparse training, one call of `step()` after each optimizer step.

    The whole training is a sequence of runs: the first has `epochs` epochs; every later one starts with a pruning and
    the method's rewinds. At one step the order is: prune, rewind, timed actions (rescale), snapshot; then learning
    rate, penalty strength, temperatures and noise of the next step. Everything changes in place: no recompile.

    Args:
        model: prepared by `sparsify_fx.apply`.
        optimizer: built after `apply`, with the peak learning rate in its groups.
        epochs: the length of one run.
        steps_per_epoch: optimizer steps in an epoch.
        learning_rate: the curve of every run: "cosine-warmup", "step-warmup", "triangular", "imagenet", "constant", a
            `Curve`, or a function optimizer -> torch scheduler (made anew for every run, stepped every optimizer step).
        batches, loss_fn: for criteria that need data; None takes those that `apply` was given.

    Attributes:
        epochs: the total over all runs.
        steps: the total of optimizer steps.
        steps_per_epoch: as given.

    Raises:
        SchedulerError: an optimizer that does not train the rewritten weights, or impossible times.
        RecipeError: a model without a plan, or a criterion without its inputs.

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
        optimizer: Optimizer,
        *,
        epochs: int,
        steps_per_epoch: int,
        learning_rate: str | Curve | TorchSchedule = "cosine-warmup",
        batches: Iterable[Any] | None = None,
        loss_fn: Callable[[Any, Any], Tensor] | None = None,
    ) -> None:
        self.plan = require_plan(model)
        _check_optimizer(model, optimizer)
        self.model, self.optimizer = model, optimizer
        axes, curve = self.plan.axes, find_curve(learning_rate)
        restart, runs = axes.rewind.learning_rate, axes.schedule.runs(self.plan.sparsity)
        self._clock = make_clock(epochs, steps_per_epoch, runs, restart, curve)
        self._points = {point: resolve(point, curve, epochs) for point in axes.rewind.points()}
        self.epochs, self.steps, self.steps_per_epoch = self._clock.epochs, self._clock.steps, steps_per_epoch
        self.total_weights = sum(program.theta().numel() for program in programs(model).values())
        self._updates = axes.schedule.updates(Budget(self.total_weights, self.plan.sparsity, epochs))
        check_times(self._updates, epochs, steps_per_epoch)
        if isinstance(axes.allocation, Pattern) and any(isinstance(update, Regrow) for update in self._updates):
            raise RecipeError(
                f"{self.plan.method}: regrowing breaks the pattern {axes.allocation}; use allocation='erk'"
            )
        remembered = remembered_inputs(model)
        batches, loss_fn = batches or remembered[0], loss_fn or remembered[1]
        if self._updates:
            check_inputs(criterion_name(axes.criterion), axes.criterion.needs, batches, loss_fn)
            check_inputs(self.plan.method, axes.schedule.needs, batches, loss_fn)
        self._pruner = Pruner(model, optimizer, self.plan, batches, loss_fn)
        self._rates = Rates(optimizer, curve, self._clock, restarts=restart is not None)
        ends = [self._clock.step_of(u.run, u.epoch) for u in self._updates if isinstance(u, SettleAndPrune)]
        self._strengths = Strengths(axes.penalty, model, self._clock, self.plan.sparsity, ends[0] if ends else None)
        self._snapshots: dict[str, dict[str, Any]] = {}
        # A stable sort by step keeps the order in which events at one step happen.
        self._events = sorted(self._plan_events(), key=lambda event: event.step)
        self._due: dict[int, list[Event]] = defaultdict(list)
        for event in self._events:
            self._due[event.step].append(event)
        self._step = 0
        self._happen()

    def step(self) -> None:
        """Call after each optimizer step: does what is due and sets the learning rate of the next step.

        Raises SchedulerError after the last step of the schedule.
        """
        if self.finished:
            raise SchedulerError(f"the schedule ended after {self.steps} steps ({self.epochs} epochs); stop training")
        self._step += 1
        if not self.finished:
            self._happen()

    def penalty(self) -> Tensor:
        """The method's term to add to the loss (0-dimensional, differentiable); 0 when there is none."""
        return self._strengths.term()

    def observe(self, *, accuracy: float) -> None:
        """Give the training accuracy of an epoch, in [0, 1], before the `step()` that ends it; `pilot` needs it."""
        self._strengths.observe(accuracy)

    @property
    def strength(self) -> float:
        """The strength that an adaptive penalty has now; 0 for the others."""
        return self._strengths.applied

    @property
    def strengths(self) -> tuple[tuple[int, float], ...]:
        """(step, strength from there on) for every change so far; empty unless the penalty is adaptive."""
        return tuple(self._strengths.path)

    def timeline(self) -> Timeline:
        """Every event of the whole training; `print(scheduler.timeline())` shows it as a table."""
        return Timeline(tuple(self._events), self._clock.runs, self.epochs, self.steps)

    @property
    def finished(self) -> bool:
        """Whether all steps were made."""
        return self._step >= self.steps

    @property
    def step_count(self) -> int:
        """Optimizer steps so far."""
        return self._step

    @property
    def run(self) -> int:
        """The number of the current run; 0 is the first."""
        return self._clock.locate(min(self._step, self.steps - 1))[0]

    @property
    def ends_run(self) -> bool:
        """Whether the next `step()` ends the current run: the moment to measure a cycle, before the next pruning."""
        following = self._step + 1
        return following == self.steps or (following < self.steps and self._clock.locate(following)[1] == 0)

    def nonzeros(self) -> int:
        """Weights that the masks keep now (all prunable weights where there is no mask)."""
        masks = self._pruner.masks()
        return nonzeros(masks) if masks else self.total_weights

    def density(self) -> float:
        """Share of the prunable weights that the masks keep now."""
        return self.nonzeros() / self.total_weights

    def state_dict(self) -> dict[str, Any]:
        """Plain types and tensors only: loadable with `torch.load(..., weights_only=True)`."""
        return {
            "step": self._step,
            "rates": self._rates.state_dict(),
            "strengths": self._strengths.state_dict(),
            "snapshots": dict(self._snapshots),
            "fingerprint": self._fingerprint(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken; load the state of the model and the optimizer first.

        Raises SchedulerError when the state belongs to another method, sparsity, seed or length.
        """
        ours, theirs = self._fingerprint(), state["fingerprint"]
        if ours != theirs:
            odd = sorted(key for key in ours if ours[key] != theirs.get(key))
            told = "; ".join(f"{key}: saved {theirs.get(key)!r}, here {ours[key]!r}" for key in odd)
            raise SchedulerError(f"the saved schedule is another one: {told}")
        self._step = int(state["step"])
        self._snapshots = dict(state["snapshots"])
        self._rates.load_state_dict(state["rates"], self._step)
        self._strengths.load_state_dict(state["strengths"])
        self._refresh()

    def _plan_events(self) -> Iterator[Event]:
        """Every event, those at one step in the order in which they happen: prune, rewind, act, snapshot."""
        axes = self.plan.axes
        for draw, update in enumerate(self._updates, start=1):
            do = functools.partial(update, self._pruner, draw)
            yield self._event(update.run, update.epoch, *update.label(self.total_weights), do)
        for run in range(1, self._clock.runs):
            for part in PARTS:
                point = getattr(axes.rewind, part)
                if point is not None:
                    go_back = functools.partial(self._rewind, part, point)
                    yield self._event(run, 0, f"rewind {part}", f"to {point}", go_back)
            if axes.rewind.learning_rate is not None:
                yield self._event(run, 0, "rewind learning rate", f"to {axes.rewind.learning_rate}", _by_the_clock)
        for run in range(self._clock.runs):
            for action in axes.actions:
                what, detail = action_label(action)
                for epoch in action.epochs(self._clock.length(run), run, self._clock.runs):
                    occasion = Occasion(run, epoch, self.plan.seed)
                    yield self._event(run, epoch, what, detail, functools.partial(action, self.model, occasion))
        for point, at in self._points.items():
            yield self._event(0, at, "snapshot", f"at {point}", functools.partial(self._snapshot, point))

    def _event(self, run: int, epoch: float, what: str, detail: str, do: Callable[[], None]) -> Event:
        return Event(self._clock.step_of(run, epoch), run, epoch, what, detail, do)

    def _happen(self) -> None:
        for event in self._due.get(self._step, ()):
            event.do()
        self._rates.set(self._step)
        self._strengths.advance(self._step)
        self._refresh()

    def _refresh(self) -> None:
        refresh(self.model, self._clock, self._updates, self.plan.seed, min(self._step, self.steps - 1))

    def _snapshot(self, point: Epoch) -> None:
        parts = [part for part in PARTS if getattr(self.plan.axes.rewind, part) == point]
        self._snapshots[str(point)] = take_snapshot(self.model, self.optimizer, parts)

    def _rewind(self, part: str, point: Epoch) -> None:
        rewind(part, self.model, self.optimizer, self._snapshots[str(point)])

    def _fingerprint(self) -> dict[str, Any]:
        curve = repr(self._rates.curve) if isinstance(self._rates.curve, Curve) else "torch scheduler"
        clock = {"epochs": self._clock.run_epochs, "steps_per_epoch": self._clock.steps_per_epoch}
        return {**self.plan.to_dict(), **clock, "weights": self.total_weights, "learning_rate": curve}


def _by_the_clock() -> None:
    """The learning rate goes back through `Rates`, which counts from the start of each run."""


def _check_optimizer(model: nn.Module, optimizer: Optimizer) -> None:
    """Every trainable factor must be in the optimizer; one built before `apply` holds parameters that are gone."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    missing = [
        f"{name} ({factor})"
        for name, program in programs(model).items()
        for factor, parameter in program.named_parameters()
        if parameter.requires_grad and id(parameter) not in held
    ]
    if missing:
        raise SchedulerError(
            f"the optimizer does not train {len(missing)} rewritten weights, for instance {missing[0]}: build it after "
            "sparsify_fx.apply(model), or freeze those weights with requires_grad_(False)"
        )
