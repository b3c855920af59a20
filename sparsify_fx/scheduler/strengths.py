"""Strengths: the strength of an adaptive penalty during a training, and what it is adapted to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.distributed.ranks import mean_number
from sparsify_fx.errors import SchedulerError
from sparsify_fx.masks import kept_count
from sparsify_fx.penalties import (
    UPDATES,
    NoPenalty,
    Observation,
    Penalty,
)
from sparsify_fx.penalties.sums import leading, split
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.sharded import in_full, meeting, on_shards
from sparsify_fx.scheduler.clock import Clock
from sparsify_fx.schedules.occasion import Occasion

# Of the size of the weights that matter in a tensor.
NEAR_ZERO = 0.1


class Strengths:
    """Holds the strength of the method's penalty, gives the term of the loss, and adapts it when it is time.

    A penalty that is not adaptive is called as it is, also in a sum. An adaptive one starts every run at its own
    strength, is off after the final pruning of the schedule `late`, and takes part in the checkpoint.

    Args:
        view: the weight programs that are penalized, or a module with no others.
        occasion: (run, epoch) -> what the penalty is told about that moment.
        until: the step of the final pruning of a method that reaches the sparsity by itself, or None.

    Attributes:
        path: (step, strength applied from there on) for every change.
        last_accuracy: the last accuracy that was observed in the whole training, here; None before the first.
    """

    def __init__(
        self,
        penalty: Penalty,
        view: nn.Module,
        clock: Clock,
        sparsity: float,
        until: int | None,
        occasion: Callable[[int, float], Occasion],
    ) -> None:
        self._penalty, self._constants = split(penalty)
        self._view, self._clock = view, clock
        self._sparsity, self._until, self._occasion = sparsity, until, occasion
        self._level = self.applied = 0.0
        # A tensor that is written in place: a number would be compiled into the loss, and every new one would compile
        # again.
        self._tensor = torch.zeros(
            (), device=next(next(iter(programs(view).values())).parameters()).device
        )
        self._before: Observation | None = None
        self._accuracy: float | None = None
        self.last_accuracy: float | None = None
        self.path: list[tuple[int, float]] = []
        self._kept_l1 = self._first_norm = 0.0
        if self._penalty is not None:
            # One that does not fit the parameterization fails here, not in the first loss.
            with on_shards(programs(view).values()):
                self._penalty(programs(view).values())
            self._kept_l1, self._first_norm = largest_l1(view, sparsity), norm(view)
            self._restart(0)

    def term(self) -> Tensor:
        """What is added to the loss (0-dimensional)."""
        found = programs(self._view).values()
        with on_shards(found):
            terms = [part(found) for part in self._constants]
            # Off, not times 0: that would still cost its backward, and be NaN where the term overflows.
            if self._penalty is not None and self.applied != 0:
                terms.append(self._penalty(found, meeting(self._tensor, found)))
            return in_full(sum(terms[1:], terms[0]) if terms else NoPenalty()(found))

    @property
    def adaptive(self) -> bool:
        """Whether the strength can change during the training."""
        return self._penalty is not None

    @property
    def led(self) -> bool:
        """Whether it will: not with `reach=1`, nor where a schedule brings the sparsity."""
        given = self._penalty
        if given is None or not leading(given):
            return False
        return given.every_epoch or self._until is not None

    def observe(self, accuracy: float) -> None:
        """Take the training accuracy of the epoch that ends with the next step."""
        try:
            share = float(accuracy)
        except (TypeError, ValueError):
            share = math.nan
        if not 0 <= share <= 1:
            raise SchedulerError(
                f"accuracy={accuracy!r} must be a number in [0, 1], the share of right answers"
            )
        self._accuracy = self.last_accuracy = share

    def advance(self, step: int) -> None:
        """Adapt after `step` optimizer steps, if it is time."""
        if self._penalty is None or step == 0:
            return
        run, since = self._clock.locate(step)
        # After the final pruning there is nothing left to close, and the penalty would only shrink what stays.
        if self._until is not None and step >= self._until:
            self._apply(step, 0.0)
        elif since == 0:
            self._restart(step)
        elif self._due(since):
            now = self._observation(run, since)
            self._level, applied = self._penalty.adapt(self._level, self._before, now)
            self._before, self._accuracy = now, None
            self._apply(step, applied)

    def state_dict(self) -> dict[str, Any]:
        """What is adapted, and to what: plain types only, for checkpoints."""
        # Without the occasion: it holds the optimizers, which no state may, and nobody asks for it later.
        before = self._before and {
            f.name: getattr(self._before, f.name)
            for f in fields(self._before)
            if f.name != "occasion"
        }
        return {
            "level": self._level,
            "applied": self.applied,
            "before": before,
            "accuracy": self._accuracy,
            "last_accuracy": self.last_accuracy,
            "kept_l1": self._kept_l1,
            "first_norm": self._first_norm,
            "path": [list(point) for point in self.path],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._level, self._accuracy = state["level"], state["accuracy"]
        self.last_accuracy = state.get("last_accuracy")
        self._kept_l1, self._first_norm = state["kept_l1"], state["first_norm"]
        self._before = (
            None if state["before"] is None else Observation(**state["before"])
        )
        self.path = [(int(step), float(value)) for step, value in state["path"]]
        self._set(state["applied"])

    def _due(self, since: int) -> bool:
        assert self._penalty is not None
        if self._penalty.every_epoch:
            return since % self._clock.steps_per_epoch == 0
        # Here UPDATES moments are spread over the steps to the end: those at which this quotient grows.
        return (
            self._until is not None
            and since * UPDATES // self._until > (since - 1) * UPDATES // self._until
        )

    def _observation(self, run: int, since: int) -> Observation:
        per_epoch, length = self._clock.steps_per_epoch, self._clock.length(run)
        horizon = length * per_epoch if self._until is None else self._until
        return Observation(
            epoch=since / per_epoch,
            epochs=length,
            progress=min(1.0, since / horizon),
            sparsity=None if self._until is None else self._sparsity,
            near_zero=near_zero_share(self._view),
            norm=norm(self._view) / self._first_norm if self._first_norm else 1.0,
            l1=sum(
                float(program.effective().abs().sum())
                for program in programs(self._view).values()
            ),
            kept_l1=self._kept_l1,
            # Over the ranks: each measures on data of its own, and their strengths must not come apart.
            accuracy=mean_number(self._accuracy, "the accuracy of an epoch"),
            occasion=self._occasion(run, since / per_epoch),
        )

    def _restart(self, step: int) -> None:
        assert self._penalty is not None
        self._level, self._before, self._accuracy = self._penalty.strength, None, None
        self._apply(step, self._level)

    def _apply(self, step: int, strength: float) -> None:
        if not self.path or self.path[-1][1] != strength:
            self.path.append((step, strength))
        self._set(strength)

    def _set(self, strength: float) -> None:
        self.applied = strength
        self._tensor.fill_(strength)


def norm(model: nn.Module) -> float:
    """‖θ‖₂ over all prunable weights."""
    return math.sqrt(
        sum(
            float(program.effective().square().sum())
            for program in programs(model).values()
        )
    )


def near_zero_share(model: nn.Module) -> float:
    """Share of the prunable weights with abs(θ) <= 0.1·sqrt(Σθ⁴ / Σθ²), sums over their tensor; in [0, 1].

    The root is the size of the weights that matter: zeros do not change it. A dense Gaussian tensor has a share of
    0.14. Gates count as they will settle: a weight whose gate would close is zero.
    """
    # Sums stay on the device until the end: one wait instead of one a layer.
    sizes = [program.settled().abs() for program in programs(model).values()]
    small = torch.stack([_near_zero(size).sum() for size in sizes]).sum()
    return int(small) / sum(size.numel() for size in sizes)


def _near_zero(size: Tensor) -> Tensor:
    # Divided by the largest first, or the fourth powers of small weights would underflow.
    squares = (size / size.max().clamp_min(torch.finfo(size.dtype).tiny)).square()
    return squares * squares.sum() <= NEAR_ZERO**2 * squares.square().sum()


def largest_l1(model: nn.Module, sparsity: float) -> float:
    """Σ|θ| over the largest prunable weights, as many as `sparsity` keeps."""
    sizes = torch.cat(
        [program.effective().abs().flatten() for program in programs(model).values()]
    )
    return float(sizes.topk(kept_count(sizes.numel(), sparsity)).values.sum())
