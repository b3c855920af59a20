"""Learning-rate curves: the multiple of the base rate at every optimizer step of a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from sparsify_fx.errors import SchedulerError
from sparsify_fx.plugins import load_plugins
from sparsify_fx.registry import Registry


@runtime_checkable
class Curve(Protocol):
    """A multiple of the base learning rate over one run."""

    def factor(self, epoch: float, epochs: float) -> float:
        """The multiple after `epoch` of `epochs` epochs, fractions included."""

    def warmup_epochs(self, epochs: float) -> float:
        """Length of the warm-up in epochs; 0 when there is none."""


CURVES: Registry[type[Any]] = Registry("learning-rate curve")
TorchSchedule = Callable[[Optimizer], LRScheduler]


@dataclass(frozen=True)
class _Warmup:
    """Linear from 0 over the first `warmup` epochs; None means epochs / 15 (10 of 150 in [Gadhikar 2024])."""

    warmup: float | None = None

    def __post_init__(self) -> None:
        if self.warmup is not None and not self.warmup >= 0:
            raise SchedulerError(
                f"warmup={self.warmup!r} must be a number of epochs >= 0, or None for epochs / 15"
            )

    def warmup_epochs(self, epochs: float) -> float:
        """The given warm-up, or a fifteenth of the run."""
        return epochs / 15 if self.warmup is None else self.warmup


@CURVES.register("cosine-warmup")
@dataclass(frozen=True)
class CosineWarmup(_Warmup):
    """Linear warm-up, then (1 + cos(π · progress)) / 2. Source: [Gadhikar 2024], appendix A.3 (i)."""

    def factor(self, epoch: float, epochs: float) -> float:
        """Linear up to 1 over the warm-up, then half a cosine down to 0."""
        start = self.warmup_epochs(epochs)
        if epoch < start:
            return epoch / start
        return 0.5 * (1 + math.cos(math.pi * _progress(epoch, start, epochs)))


@CURVES.register("step-warmup")
@dataclass(frozen=True)
class StepWarmup(_Warmup):
    """Linear warm-up, then times 0.1 at 0.4 and at 0.8 of the run (epochs 60 and 120 of 150).

    Source: [Gadhikar 2024], appendix A.3 (ii).
    """

    def factor(self, epoch: float, epochs: float) -> float:
        """Linear up to 1 over the warm-up, then 1, 0.1 and 0.01."""
        start = self.warmup_epochs(epochs)
        if epoch < start:
            return epoch / start
        # Booleans add up to the number of drops so far.
        return 0.1 ** ((epoch >= 0.4 * epochs) + (epoch >= 0.8 * epochs))


@CURVES.register("triangular")
@dataclass(frozen=True)
class Triangular(_Warmup):
    """Linear from 0 to 1 over the warm-up, then linear to 0 at the end of the run.

    Source: [Gadhikar 2025], Table 6 (the peak's place is not printed there; the warm-up ends at epoch 10, section 3).
    """

    def factor(self, epoch: float, epochs: float) -> float:
        """Linear up to 1 over the warm-up, then linear down to 0."""
        start = self.warmup_epochs(epochs)
        return epoch / start if epoch < start else 1 - _progress(epoch, start, epochs)


@CURVES.register("imagenet")
@dataclass(frozen=True)
class ImageNet(_Warmup):
    """Constant 0.1 during the warm-up, then 1, times 0.1 after every third of the run (30 of 90 epochs) since then.

    Source: [Gadhikar 2024], appendix A.3 (iii): 0.01 during warm-up, then from 0.1 down by 10 every 30 epochs.
    """

    def factor(self, epoch: float, epochs: float) -> float:
        """0.1 during the warm-up, then 1, 0.1, 0.01, ..."""
        start = self.warmup_epochs(epochs)
        # 1e-9, lest rounding puts the epoch of a drop just below it.
        drops = math.floor(3 * (epoch - start) / epochs + 1e-9)
        return 0.1 if epoch < start else 0.1**drops


@CURVES.register("constant")
@dataclass(frozen=True)
class Constant:
    """The base rate throughout."""

    def factor(self, epoch: float, epochs: float) -> float:
        """1 at every epoch."""
        return 1.0

    def warmup_epochs(self, epochs: float) -> float:
        """0: there is no warm-up."""
        return 0.0


@dataclass(frozen=True)
class HandsOff(Constant):
    """learning_rate=None: whoever else sets the optimizer's rate goes on doing so."""


def _progress(epoch: float, start: float, epochs: float) -> float:
    # A warm-up as long as the run leaves no progress to divide by.
    return min(1.0, (epoch - start) / max(epochs - start, 1e-12))


def find_curve(curve: str | Curve | TorchSchedule | None) -> Curve | TorchSchedule:
    """The curve of that name, or the curve or factory of a torch scheduler itself; `HandsOff()` for None.

    Raises UnknownNameError or SchedulerError.
    """
    if curve is None:
        return HandsOff()
    if isinstance(curve, str):
        load_plugins()
        found: Curve = CURVES[curve]()
        return found
    # One that is made already has the optimizer's present rate as its base, and could not start again after a rewind.
    if isinstance(curve, (LRScheduler, ReduceLROnPlateau)):
        raise SchedulerError(
            f"learning_rate={type(curve).__name__}(...) is made already; give a function that makes it, for instance "
            "learning_rate=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000), or "
            "learning_rate=None and step it yourself"
        )
    # A class is callable too, but calling it with the optimizer alone would rarely make what was meant.
    if (isinstance(curve, Curve) or callable(curve)) and not isinstance(curve, type):
        return curve
    raise SchedulerError(
        f"learning_rate={curve!r} must be a name ({', '.join(CURVES)}), a Curve, a function from the optimizer to a "
        "torch scheduler, or None to leave the optimizer's rate alone"
    )
