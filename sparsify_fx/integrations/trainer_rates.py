"""The learning rate of Transformers' Trainer as a curve, and the Trainer's own taken off the optimizer."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from sparsify_fx.errors import SchedulerError

# A run is cut into so many steps for Transformers' functions of the step: schedules speak of shares of a run.
FINE = 10_000


@dataclass(frozen=True)
class TrainerCurve:
    """`lr_scheduler_type` with its warm-up, stretched over each run as over a whole training.

    Attributes:
        kind: the name that Transformers has for it: "linear", "cosine".
        warmup: the share of a run, in [0, 1).
        options: `lr_scheduler_kwargs`, as pairs.
    """

    kind: str
    warmup: float
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, args: Any, steps: int) -> TrainerCurve:
        """The one that these TrainingArguments describe, for a training of `steps` steps."""
        kind = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
        options = tuple(sorted((args.lr_scheduler_kwargs or {}).items()))
        return cls(str(kind), args.get_warmup_steps(steps) / steps, options)

    def factor(self, epoch: float, epochs: float) -> float:
        """The multiple of the rate after `epoch` of `epochs` epochs of a run."""
        rate = _lambda(self.kind, round(self.warmup * FINE), self.options)
        return rate(int(epoch / epochs * FINE))

    def warmup_epochs(self, epochs: float) -> float:
        """The same share of every run."""
        return self.warmup * epochs


@functools.cache
def _lambda(
    kind: str, warmup: int, options: tuple[tuple[str, Any], ...]
) -> Callable[[int], float]:
    # By name: type checkers would follow an import into all of Transformers.
    get_scheduler = importlib.import_module("transformers").get_scheduler
    nobody = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
    made = get_scheduler(
        kind, nobody, warmup, FINE, scheduler_specific_kwargs=dict(options)
    )
    # Others wait for a metric, or keep what they do to themselves.
    if not isinstance(made, LambdaLR):
        raise SchedulerError(
            f"lr_scheduler_type={kind!r} is no function of the step, so it cannot begin anew at each run of the "
            'method: give the callback a curve, for instance learning_rate="cosine-warmup"'
        )
    rate: Callable[[int], float] = made.lr_lambdas[0]
    return rate


def hand_over(lr_scheduler: Any) -> None:
    """Let the Scheduler set the rates that the Trainer's learning-rate scheduler has set.

    The Trainer goes on calling, logging and saving the object, which tells the rates of the Scheduler from now on.
    """
    for group in lr_scheduler.optimizer.param_groups:
        # A warm-up has brought it to 0 by now.
        group["lr"] = group.get("initial_lr", group["lr"])

    def step(self: Any, *_: Any, **others: Any) -> None:
        """Nothing: the Scheduler steps."""

    def get_last_lr(self: Any) -> list[Any]:
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    # A class of its own, for what is set on the object itself would be in its state dict.
    base = type(lr_scheduler)
    lr_scheduler.__class__ = type(
        base.__name__, (base,), {"step": step, "get_last_lr": get_last_lr}
    )
