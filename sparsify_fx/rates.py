"""Learning rates, step by step: from a curve or from a torch scheduler, written into the optimizers in place."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from sparsify_fx.clock import Clock
from sparsify_fx.errors import LearningRateWarning, SchedulerError
from sparsify_fx.learning_rate import Curve, HandsOff, TorchSchedule


class Rates:
    """Sets the learning rates of every step; those in the optimizers at construction are the base.

    A rate that somebody else has written since is overwritten, and told once by a LearningRateWarning. Groups that are
    added later start with the rate that they have then as their base. `HandsOff` writes nothing.

    Args:
        restarts: whether each run starts the curve again; otherwise one curve spans all runs.

    Raises SchedulerError for groups without a rate, and for a factory that gives no scheduler that steps by itself.
    """

    def __init__(
        self, optimizers: Sequence[Optimizer], curve: Curve | TorchSchedule, clock: Clock, restarts: bool
    ) -> None:
        self.curve = curve
        self._each = [] if isinstance(curve, HandsOff) else [_Rates(o, curve, clock, restarts) for o in optimizers]

    def set(self, step: int) -> None:
        """Write the rates of optimizer step number `step` (0 is the first); call once for each, in order."""
        for rates in self._each:
            rates.set(step)

    def state_dict(self) -> dict[str, Any]:
        """Base rates and the torch scheduler's state, of each optimizer."""
        states = [rates.state_dict() for rates in self._each]
        return states[0] if len(states) == 1 else {"each": states}

    def load_state_dict(self, state: dict[str, Any], step: int) -> None:
        """Go on before optimizer step number `step`."""
        states = state.get("each", [state])
        if len(states) != len(self._each):
            raise SchedulerError(
                f"the saved schedule has the rates of {len(states)} optimizers, this one sets those of "
                f"{len(self._each)}; build the Scheduler with the same optimizers and learning_rate"
            )
        for rates, saved in zip(self._each, states, strict=True):
            rates.load_state_dict(saved, step)


class _Rates:
    """The rates of one optimizer."""

    def __init__(self, optimizer: Optimizer, curve: Curve | TorchSchedule, clock: Clock, restarts: bool) -> None:
        self.optimizer, self.curve, self.clock, self.restarts = optimizer, curve, clock, restarts
        self._base: list[float] = []
        self._admit_new_groups()
        self._torch: LRScheduler | None = None
        self._written: list[tuple[Any, ...]] = []
        self._warned = False

    def set(self, step: int) -> None:
        self._notice_others()
        self._admit_new_groups()
        if isinstance(self.curve, Curve):
            self._follow(self.curve, step)
        elif step == 0 or (self.restarts and self.clock.locate(step)[1] == 0):
            self._torch = self._restart(self.curve)
        else:
            assert self._torch is not None
            self._torch.step()
        self._written = self._marks()

    def state_dict(self) -> dict[str, Any]:
        return {"base": list(self._base), "torch": None if self._torch is None else self._torch.state_dict()}

    def load_state_dict(self, state: dict[str, Any], step: int) -> None:
        self._base = list(state["base"])
        self._admit_new_groups()
        if not isinstance(self.curve, Curve):
            self._torch = self._restart(self.curve)
            self._torch.load_state_dict(state["torch"])
            self._write([float(rate) for rate in self._torch.get_last_lr()])
        elif step < self.clock.steps:
            self._follow(self.curve, step)
        # The optimizer's own state may be loaded after this, and brings its rates along.
        self._written = []

    def _follow(self, curve: Curve, step: int) -> None:
        # The rate of a step is the curve's at its middle: neither the first nor the last step is lost to a rate of 0.
        run, since = self.clock.locate(step)
        epoch, length = (step + 0.5) / self.clock.steps_per_epoch, self.clock.epochs
        if self.restarts:
            epoch, length = (since + 0.5) / self.clock.steps_per_epoch, self.clock.run_epochs
            epoch += self.clock.restart_epoch if run > 0 else 0
        factor = curve.factor(epoch, length)
        self._write([base * factor for base in self._base])

    def _restart(self, factory: TorchSchedule) -> LRScheduler:
        before = [float(group["lr"]) for group in self.optimizer.param_groups]
        self._write(self._base)
        for group in self.optimizer.param_groups:
            group.pop("initial_lr", None)
        made: Any = factory(self.optimizer)
        if isinstance(made, ReduceLROnPlateau) or not isinstance(made, LRScheduler):
            self._write(before)
        if isinstance(made, ReduceLROnPlateau) or not isinstance(made, LRScheduler):
            plateau = "it waits for a metric, and the Scheduler has none" if isinstance(made, ReduceLROnPlateau) else ""
            raise SchedulerError(
                f"learning_rate made a {type(made).__name__}; expected a torch scheduler that steps after every "
                f"optimizer step{': ' * bool(plateau)}{plateau}. Pass learning_rate=None and step yours yourself"
            )
        return made

    def _write(self, rates: list[float]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)  # a compiled optimizer step reads the same tensor again
            else:
                group["lr"] = rate

    def _admit_new_groups(self) -> None:
        """Groups that `add_param_group` has added since: what they start with is their base."""
        for group in self.optimizer.param_groups[len(self._base) :]:
            rate = group.get("lr")
            if not isinstance(rate, (int, float, Tensor)):
                raise SchedulerError(
                    f"{type(self.optimizer).__name__} has a parameter group with lr={rate!r}, so there is no rate to "
                    "follow a curve from; give the optimizer a learning rate, or pass learning_rate=None"
                )
            self._base.append(float(rate))

    def _marks(self) -> list[tuple[Any, ...]]:
        """What tells that a rate was written; of a tensor its version, for its value may be on another device."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        return [(id(rate), rate._version) if isinstance(rate, Tensor) else (rate,) for rate in rates]

    def _notice_others(self) -> None:
        if self._warned or not self._written:
            return
        for number, (mark, now) in enumerate(zip(self._written, self._marks(), strict=False)):
            if mark != now:
                self._warned = True
                was = (
                    f" {mark[0]:g} and is {now[0]:g} now" if len(mark) == len(now) == 1 else " written by the Scheduler"
                )
                warnings.warn(
                    f"the learning rate of group {number} was{was}: something else changes it too, another learning-"
                    "rate scheduler or a trainer. The Scheduler sets its own rate again at every step; pass "
                    "learning_rate=None to leave the rate to the other one, or take the other one away",
                    LearningRateWarning,
                    stacklevel=6,
                )
                return
