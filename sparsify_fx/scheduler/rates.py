"""Learning rates, step by step: from a curve or from a torch scheduler, written into the optimizers in place."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from sparsify_fx.errors import LearningRateWarning, SchedulerError, warn
from sparsify_fx.learning_rate import Curve, HandsOff, TorchSchedule
from sparsify_fx.scheduler.clock import Clock


class Rates:
    """Sets the learning rates of every step; those in the optimizers at construction are the base.

    A rate that somebody else has written since is overwritten, and told once by a LearningRateWarning. Groups that are
    added later start with the rate that they have then as their base. `HandsOff` writes nothing.

    Args:
        restarts: whether each run starts the curve again; otherwise one curve spans all runs.

    Raises SchedulerError for groups without a rate, and for a factory that gives no scheduler that steps by itself.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        curve: Curve | TorchSchedule,
        clock: Clock,
        restarts: bool,
    ) -> None:
        self.curve = curve
        self._each = (
            []
            if isinstance(curve, HandsOff)
            else [_Rates(o, curve, clock, restarts) for o in optimizers]
        )

    def set(self, step: int) -> None:
        """Write the rates of optimizer step number `step` (0 is the first); call once for each, in order."""
        for rates in self._each:
            rates.set(step)

    def state_dict(self) -> dict[str, Any]:
        """Base rates and the torch scheduler's state, of each optimizer."""
        # One optimizer is saved flat, as before there could be several.
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
        # All are checked before the first one is written.
        for rates, saved in zip(self._each, states, strict=True):
            rates.check(saved)
        for rates, saved in zip(self._each, states, strict=True):
            rates.load_state_dict(saved, step)


class _Rates:
    """The rates of one optimizer."""

    def __init__(
        self,
        optimizer: Optimizer,
        curve: Curve | TorchSchedule,
        clock: Clock,
        restarts: bool,
    ) -> None:
        self.optimizer, self.curve, self.clock, self.restarts = (
            optimizer,
            curve,
            clock,
            restarts,
        )
        self._base: list[float] = []
        self._admit_new_groups()
        self._torch: LRScheduler | None = None
        self._written: list[_Written] = []
        self._warned = False

    @property
    def base(self) -> list[float]:
        """The base rate of every group."""
        return list(self._base)

    def set(self, step: int) -> None:
        # Before the rates of the last step are written over: only now they tell whether somebody else wrote since.
        self._notice_others()
        grown = self._admit_new_groups()
        if isinstance(self.curve, Curve):
            self._follow(self.curve, step)
        # Made anew at each run, and where groups were added: a torch scheduler knows those of its construction.
        elif self._torch is None or grown or self._since(step) == 0:
            self._torch = self._begin(self.curve, self._since(step))
        else:
            self._torch.step()
        self._written = [
            _Written.of(group["lr"]) for group in self.optimizer.param_groups
        ]

    def state_dict(self) -> dict[str, Any]:
        return {
            "base": list(self._base),
            "torch": None if self._torch is None else self._torch.state_dict(),
        }

    def check(self, state: Any) -> None:
        """Raise SchedulerError for a state that does not fit; nothing changes."""
        groups = len(self.optimizer.param_groups)
        if len(state["base"]) > groups:
            raise SchedulerError(
                f"the saved schedule is that of an optimizer with {len(state['base'])} parameter groups, "
                f"{type(self.optimizer).__name__} has {groups}; add the others first, with add_param_group"
            )

    def load_state_dict(self, state: dict[str, Any], step: int) -> None:
        # Groups that were added after the last step of the saved training are admitted with the next one, as there.
        self._base, saved = [float(rate) for rate in state["base"]], state["torch"]
        grown = len(self._base) < len(self.optimizer.param_groups)
        self._torch = None
        # A curve is a function of the step, so nothing of it had to be saved.
        if isinstance(self.curve, Curve):
            self._follow(self.curve, min(step, self.clock.steps - 1))
        elif grown or saved is None:
            self._write([float(rate) for rate in (saved or {}).get("_last_lr", ())])
        else:
            # The optimizer's state may be there already, with what else a torch scheduler writes: momentum, betas.
            known = [dict(group) for group in self.optimizer.param_groups]
            self._torch = self._begin(self.curve, 0)
            self._torch.load_state_dict(copy.deepcopy(saved))
            for group, before in zip(self.optimizer.param_groups, known, strict=True):
                group.update(
                    {key: value for key, value in before.items() if key != "initial_lr"}
                )
            self._write([float(rate) for rate in self._torch.get_last_lr()])
        # Or it may be loaded after this, and brings its rates along.
        self._written = []

    def _since(self, step: int) -> int:
        """Optimizer steps since the curve began."""
        return self.clock.locate(step)[1] if self.restarts else step

    def _follow(self, curve: Curve, step: int) -> None:
        # The rate of a step is the curve's at its middle: neither the first nor the last step is lost to a rate of 0.
        epoch, length = (
            (self._since(step) + 0.5) / self.clock.steps_per_epoch,
            self.clock.epochs,
        )
        if self.restarts:
            length = self.clock.run_epochs
            epoch += self.clock.restart_epoch if self.clock.locate(step)[0] > 0 else 0
        factor = curve.factor(epoch, length)
        self._write([base * factor for base in self._base])

    def _begin(self, factory: TorchSchedule, steps: int) -> LRScheduler:
        """A torch scheduler for the groups of now, `steps` steps after its start from the base rates."""
        # torch takes the rates that it finds for the initial ones, and an initial_lr that another scheduler has left
        # before these.
        before = [float(group["lr"]) for group in self.optimizer.param_groups]
        self._write(self._base)
        for group in self.optimizer.param_groups:
            group.pop("initial_lr", None)
        made: Any = factory(self.optimizer)
        if isinstance(made, ReduceLROnPlateau) or not isinstance(made, LRScheduler):
            # After an error the optimizer has the rates that it came with.
            self._write(before)
            plateau = (
                "it waits for a metric, and the Scheduler has none"
                if isinstance(made, ReduceLROnPlateau)
                else ""
            )
            raise SchedulerError(
                f"learning_rate made a {type(made).__name__}; expected a torch scheduler that steps after every "
                f"optimizer step{': ' * bool(plateau)}{plateau}. Pass learning_rate=None and step yours yourself"
            )
        with warnings.catch_warnings():
            # torch warns that the optimizer has made no step between; there is none to make.
            warnings.simplefilter("ignore")
            for _ in range(steps):
                made.step()
        return made

    def _write(self, rates: list[float]) -> None:
        # Not strict: groups may have been added since, and keep their rates until they are admitted.
        for group, rate in zip(self.optimizer.param_groups, rates, strict=False):
            if isinstance(group["lr"], Tensor):
                # In place: a compiled optimizer step reads the same tensor again.
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _admit_new_groups(self) -> bool:
        """Groups that `add_param_group` has added since: what they start with is their base. Whether there were any."""
        new = self.optimizer.param_groups[len(self._base) :]
        for group in new:
            rate = group.get("lr")
            if not isinstance(rate, (int, float, Tensor)):
                raise SchedulerError(
                    f"{type(self.optimizer).__name__} has a parameter group with lr={rate!r}, so there is no rate to "
                    "follow a curve from; give the optimizer a learning rate, or pass learning_rate=None"
                )
            self._base.append(float(rate))
        return bool(new)

    def _notice_others(self) -> None:
        # Told once: the other one will write at every step.
        for number, (written, group) in enumerate(
            zip(self._written, self.optimizer.param_groups, strict=False)
        ):
            if not self._warned and written.differs(group["lr"]):
                self._warned = True
                warn(
                    f"the learning rate of group {number} was {float(written.value):g} and is {float(group['lr']):g} "
                    "now: something else changes it too, another learning-rate scheduler or a trainer. The Scheduler "
                    "sets its own rate again at every step; pass learning_rate=None to leave the rate to the other "
                    "one, or take the other one away",
                    LearningRateWarning,
                )


@dataclass(frozen=True)
class _Written:
    """A rate as it was left; of a tensor the object and its version too, for to read its value waits for the device."""

    value: float | Tensor
    holder: Any
    version: int

    @classmethod
    def of(cls, rate: float | Tensor) -> _Written:
        if isinstance(rate, Tensor):
            return cls(rate.detach().clone(), rate, rate._version)
        return cls(rate, rate, 0)

    def differs(self, rate: float | Tensor) -> bool:
        # The same tensor at the same version was not written; the value is compared only where it may have changed.
        untouched = (
            isinstance(rate, Tensor)
            and rate is self.holder
            and rate._version == self.version
        )
        return not untouched and float(rate) != float(self.value)
