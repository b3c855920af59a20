"""Learning rates, step by step: from a curve or from a torch scheduler, written into the optimizer in place."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from sparsify_fx.clock import Clock
from sparsify_fx.learning_rate import Curve, TorchSchedule


class Rates:
    """Sets the learning rate of every step; the rates in the optimizer at construction are the base.

    Args:
        restarts: whether each run starts the curve again; otherwise one curve spans all runs.
    """

    def __init__(self, optimizer: Optimizer, curve: Curve | TorchSchedule, clock: Clock, restarts: bool) -> None:
        self.optimizer, self.curve, self.clock, self.restarts = optimizer, curve, clock, restarts
        self._base = [float(group["lr"]) for group in optimizer.param_groups]
        self._torch: LRScheduler | None = None

    def set(self, step: int) -> None:
        """Write the rate of optimizer step number `step` (0 is the first); call once for each, in order."""
        if isinstance(self.curve, Curve):
            self._follow(self.curve, step)
        elif step == 0 or (self.restarts and self.clock.locate(step)[1] == 0):
            self._torch = self._restart(self.curve)
        else:
            assert self._torch is not None
            self._torch.step()

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
        self._write(self._base)
        for group in self.optimizer.param_groups:
            group.pop("initial_lr", None)
        return factory(self.optimizer)

    def _write(self, rates: list[float]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)  # a compiled optimizer step reads the same tensor again
            else:
                group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """Base rates and the torch scheduler's state."""
        return {"base": list(self._base), "torch": None if self._torch is None else self._torch.state_dict()}

    def load_state_dict(self, state: dict[str, Any], step: int) -> None:
        """Go on before optimizer step number `step`."""
        self._base = list(state["base"])
        if isinstance(self.curve, Curve):
            if step < self.clock.steps:
                self._follow(self.curve, step)
            return
        self._torch = self._restart(self.curve)
        self._torch.load_state_dict(state["torch"])
        self._write([float(rate) for rate in self._torch.get_last_lr()])
