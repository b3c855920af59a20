"""What a Scheduler tells of itself and of its model; nothing here changes anything."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsify_fx.programs.owners import programs
from sparsify_fx.scheduler.agenda import facts_of, rate_fact
from sparsify_fx.scheduler.clock import Clock
from sparsify_fx.scheduler.overshoot import kept_zeros
from sparsify_fx.scheduler.rates import Rates
from sparsify_fx.scheduler.timeline import Event, Timeline
from sparsify_fx.scheduler.track import Track
from sparsify_fx.scheduler.unfinished import unfinished
from sparsify_fx.tables.shown import Shown, facts


class Readings(Shown):
    """The readings of a Scheduler: where it is, what it will do, and how sparse the model is."""

    # Set by `Scheduler`.
    model: nn.Module
    optimizers: tuple[Optimizer, ...]
    epochs: int
    steps: int
    steps_per_epoch: int
    total_weights: int
    _clock: Clock
    _tracks: Sequence[Track]
    _events: Sequence[Event]
    _rates: Rates
    _step: int

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer, or the first of several."""
        return self.optimizers[0]

    # ------------------------------------------------------------------ where it is

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
        # After the last step the clock would be at the start of a run that there is not.
        return self._clock.locate(min(self._step, self.steps - 1))[0]

    @property
    def ends_run(self) -> bool:
        """Whether the next `step()` ends the current run: the moment to measure a cycle, before the next pruning."""
        following = self._step + 1
        return following == self.steps or (
            following < self.steps and self._clock.locate(following)[1] == 0
        )

    @property
    def needs_batch(self) -> bool:
        """Whether the next `step()` scores weights on the batch of this step, as RigL does; see `score_on`."""
        return any(track.needs_batch(self._step + 1) for track in self._tracks)

    def headline(self) -> str:
        """Method, place and density, for `repr`; `print` and notebooks show the timeline too."""
        methods = "; ".join(t.part.says(t.plan.method) for t in self._tracks)
        place = f"step {self.step_count:,} of {self.steps:,}, run {self.run + 1} of {self._clock.runs}"
        return (
            f"{methods}, {place}, {self.nonzeros():,} of {self.total_weights:,} weights"
        )

    def tables(self) -> tuple[Table, ...]:
        """Where it is, and its timeline."""
        told = [
            ("step", f"{self.step_count:,} of {self.steps:,}"),
            (
                "weights",
                f"{self.nonzeros():,} of {self.total_weights:,} ({self.density():.2%})",
            ),
            *(
                (track.part.name or track.plan.method, track.plan.met.sentence())
                for track in self._tracks
                if track.plan.met is not None
            ),
            *(("note", note) for note in self.notes),
        ]
        return facts("scheduler", told), self.timeline().table()

    # ------------------------------------------------------------------ what it does

    def timeline(self) -> Timeline:
        """Every event of the whole training; `print(scheduler.timeline())` shows it as a table."""
        facts = [rate_fact(self._rates.curve)]
        for track in self._tracks:
            facts += facts_of(track)
        return Timeline(
            tuple(self._events), self._clock.runs, self.epochs, self.steps, tuple(facts)
        )

    def get_last_lr(self) -> list[float | Tensor]:
        """The learning rate of every parameter group, as torch's schedulers tell it; trainers log it."""
        found: list[float | Tensor] = []
        for optimizer in self.optimizers:
            # With learning_rate=None an optimizer may have groups without a rate.
            rates = [group["lr"] for group in optimizer.param_groups if "lr" in group]
            # The tensor of a capturable optimizer is written in place; a log would show the latest rate everywhere.
            found += [r.clone() if isinstance(r, Tensor) else r for r in rates]
        return found

    @property
    def strength(self) -> float:
        """The strength that an adaptive penalty has now; 0 for the others."""
        return max((track.strengths.applied for track in self._tracks), key=abs)

    @property
    def strengths(self) -> tuple[tuple[int, float], ...]:
        """(step, strength from there on) for every change so far; empty unless a penalty is adaptive."""
        path: list[tuple[int, float]] = []
        for track in self._tracks:
            path += track.strengths.path
        return tuple(sorted(path))

    @property
    def notes(self) -> tuple[str, ...]:
        """What went wrong without stopping the training, such as layers that lost all their weights."""
        notes: list[str] = []
        for track in self._tracks:
            notes += track.notes
        return tuple(notes)

    # ------------------------------------------------------------------ how sparse the model is

    def nonzeros(self) -> int:
        """Weights that the masks keep now (all prunable weights where there is no mask)."""
        return sum(track.nonzeros() for track in self._tracks)

    def density(self) -> float:
        """Share of the prunable weights that the masks keep now."""
        return self.nonzeros() / self.total_weights

    def kept_zeros(self) -> int:
        """Weights that the masks keep and that are exactly zero all the same, such as regrown ones that never moved."""
        return kept_zeros(programs(self.model))

    @property
    def at_sparsity(self) -> bool:
        """Whether the masks keep the numbers of weights that were asked for: only such checkpoints compare."""
        return not unfinished(self.model)
