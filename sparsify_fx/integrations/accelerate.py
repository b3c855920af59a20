"""Accelerate: the Scheduler follows the prepared optimizer, accumulation included, and is in the saved state."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from torch import nn

from sparsify_fx.errors import MethodError
from sparsify_fx.integrations.budget import Budget
from sparsify_fx.integrations.packages import missing
from sparsify_fx.integrations.penalties import add_at_steps
from sparsify_fx.integrations.training import SparseTraining
from sparsify_fx.scheduler.scheduler import Scheduler

if find_spec("accelerate") is None:
    raise missing("accelerate")


class Sparsify:
    """Makes a model sparse that a loop with an `Accelerator` trains.

        sparse = Sparsify(model, "gmp", sparsity=0.9)                           # before the optimizer
        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        sparse.follow(accelerator, optimizer, loader, epochs=90)                # after prepare

    The loop stays as it is. After `follow` every `optimizer.step()` that is not skipped for accumulation adds the
    gradient of the method's penalty before, and steps the schedule after; `save_state` and `load_state` take the
    schedule along.

    Args:
        model: a plain model, before it is prepared.
        method, options: as `sparsify_fx.apply` takes them.

    Attributes:
        scheduler: the Scheduler, from `follow` on; `scheduler.at_sparsity` says which states compare.

    Raises MethodError for a model that was prepared by `apply` already, and what `apply` raises.

    >>> sparse = Sparsify(nn.Linear(8, 8), "random", sparsity=0.75)
    >>> sparse.scheduler is None
    True
    """

    def __init__(
        self, model: nn.Module, method: str = "signin", **options: Any
    ) -> None:
        self._training = SparseTraining("the loop", method, options)
        self._training.prepare(model)

    @property
    def scheduler(self) -> Scheduler | None:
        """The Scheduler; None before `follow`."""
        return self._training.scheduler

    def follow(
        self,
        accelerator: Any,
        optimizer: Any,
        loader: Any = None,
        *,
        epochs: int | None = None,
        steps: int | None = None,
        learning_rate: Any = None,
    ) -> Scheduler:
        """Build the Scheduler on what `prepare` gave, for `epochs` passes over `loader` or for `steps` optimizer steps.

        Args:
            optimizer: the prepared one, or several of which the last is stepped last.
            epochs: of the whole training, all runs of the method together.
            steps: optimizer steps of the whole training, where it does not count epochs.
            learning_rate: None leaves the rate to the loop; or a curve, as the Scheduler takes it, which methods with
                several runs (`lrr`, `imp`) need.

        Raises:
            MethodError: neither epochs with a loader, nor steps.
            SchedulerError: an optimizer that was built before, or a training too short for the method.
        """
        optimizers = [optimizer] if not isinstance(optimizer, Sequence) else optimizer
        self._training.learning_rate = learning_rate
        budget = _budget(accelerator, loader, epochs, steps)
        scheduler = self._training.begin(optimizers, budget, resumed=False)
        add_at_steps(scheduler)
        accelerator.register_for_checkpointing(self)
        # The wrapper of `prepare` knows whether this batch made a step; the optimizer within only hears of steps.
        last = optimizers[-1]
        last.step = functools.partial(self._step, accelerator, last.step)
        return scheduler

    def merge(self) -> None:
        """Make plain weights with zeros of it, after the training; one that ended early is told."""
        self._training.merge()

    def state_dict(self) -> dict[str, Any]:
        """What `save_state` saves of the schedule."""
        return self._training.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken; `load_state` calls it."""
        self._training.load(state)

    def _step(self, accelerator: Any, step: Any, *args: Any, **others: Any) -> Any:
        result = step(*args, **others)
        if accelerator.sync_gradients:
            self._training.step()
        return result


def _budget(
    accelerator: Any, loader: Any, epochs: int | None, steps: int | None
) -> Budget:
    accumulated = accelerator.gradient_accumulation_steps
    plugin = accelerator.gradient_state.plugin_kwargs
    # The rest of an epoch makes a step too, unless the Accelerator was told to go on into the next epoch.
    whole = plugin.get("sync_with_dataloader", True)
    try:
        batches = 0 if loader is None else len(loader)
    except TypeError:
        batches = 0  # data of unknown length
    per_epoch = math.ceil(batches / accumulated) if whole else batches // accumulated
    if steps is not None:
        return Budget(steps, per_epoch or None)
    if epochs is None or not batches:
        raise MethodError(
            "follow needs the length of the training: epochs= and the prepared loader, or steps=, which counts "
            "optimizer steps, where the loader has no length"
        )
    total = per_epoch * epochs if whole else batches * epochs // accumulated
    return Budget(total, per_epoch)
