"""finetune: a trained model, pruned and retrained within a budget of epochs."""

from __future__ import annotations

import copy
import itertools
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.swa_utils import update_bn

from sparsify_fx.api import apply, merge
from sparsify_fx.errors import DataError, MethodError, TrainingError
from sparsify_fx.finetuning.distillation import Distillation
from sparsify_fx.passes import Merge
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.parameter_groups import parameter_groups
from sparsify_fx.programs.selection import Selection
from sparsify_fx.recipe import find_method
from sparsify_fx.scheduler.scheduler import Scheduler
from sparsify_fx.schedules.base import ForTrained

_LOG = logging.getLogger(__name__)

# What criteria of data score on, and what batch norms are estimated on again.
_SCORING_BATCHES = 10
_NORM_BATCHES = 100

MakeOptimizer = Callable[[Any], Optimizer]
Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class FinetuneReport:
    """What came of a fine-tuning.

    Attributes:
        method: as it was asked for.
        sparsity: the fraction of the prunable weights that are masked now.
        nonzeros: weights that the masks keep.
        total: prunable weights.
        losses: the mean training loss of each epoch, distillation and penalty included.
    """

    method: str
    sparsity: float
    nonzeros: int
    total: int
    losses: tuple[float, ...]

    @property
    def epochs(self) -> int:
        """Epochs that were trained: `epochs`, or a little less where cycles of equal length share them."""
        return len(self.losses)

    def __str__(self) -> str:
        return (
            f"{self.method}: {self.nonzeros:,} of {self.total:,} weights stay (sparsity {self.sparsity:.4g}) after "
            f"{self.epochs} epochs, training loss {self.losses[0]:.4g} to {self.losses[-1]:.4g}"
        )


def finetune(
    model: nn.Module,
    method: str = "gmp",
    sparsity: float = 0.9,
    batches: Iterable[Any] | None = None,
    *,
    epochs: int = 3,
    learning_rate: float = 0.01,
    optimizer: MakeOptimizer | None = None,
    loss_fn: Loss = F.cross_entropy,
    teacher: nn.Module | Distillation | None = None,
    include: Selection = None,
    exclude: Selection = None,
    seed: int = 0,
    **axes: Any,
) -> FinetuneReport:
    """Prune a trained model to `sparsity` and train it on, in place; it ends merged: plain weights, exact zeros.

    `epochs` is the whole budget, whatever the method: what begins with dense training (`magnitude`, `obd`, `lrr`)
    prunes at once, cycles share the epochs, phases are as long as they have room for. At the end the statistics of
    batch norms are estimated again under the final weights.

    Args:
        model: a trained model, plain; on its device, to which batches are moved.
        method, sparsity, include, exclude, seed, axes: as for `apply`. "keep-zeros" takes the sparsity of the model.
        batches: pairs (inputs, targets), gone through once in an epoch: a DataLoader, or a list. It needs a length.
        epochs: epochs of training in all, at least 1.
        learning_rate: the peak of the default optimizer, SGD with momentum 0.9; each run warms up and decays to 0.
        optimizer: a function from parameter groups to another one, such as
            `lambda groups: torch.optim.AdamW(groups, lr=1e-4)`; its own rate is the peak.
        loss_fn: loss_fn(outputs, targets) -> scalar.
        teacher: the dense model, whose outputs are targets too, or a `Distillation` with its options. It is copied
            first, so `teacher=model` distils the model as it is now.

    Raises what `apply` and `Scheduler` raise; DataError for batches without a length, or none; MethodError for epochs
    below 1; TrainingError when the loss is not finite. After an error the model has its weights and modules again.

    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> batches = [(torch.randn(4, 8), torch.tensor([0, 1, 0, 1])) for _ in range(8)]
    >>> report = finetune(model, "gmp", 0.75, batches, epochs=2, teacher=model)
    >>> report.nonzeros, int(model[0].weight.count_nonzero() + model[2].weight.count_nonzero())
    (40, 40)

    Source: [Renda 2020] (retraining), [Hinton 2015] (distillation).
    """
    # 1. What can be refused before anything changes.
    length = _length(batches, epochs)
    assert batches is not None
    chosen = find_method(method, axes).resolved().schedule
    if axes.get("schedule") is None and isinstance(chosen, ForTrained):
        chosen = chosen.for_trained(sparsity, epochs, epochs * length)
    runs = chosen.runs(sparsity)
    if runs > epochs:
        raise MethodError(
            f"{method} has {runs} runs, and epochs={epochs} has no room for one epoch in each; give {runs} or more"
        )
    distill = None
    if teacher is not None:
        distill = (
            teacher if isinstance(teacher, Distillation) else Distillation(teacher)
        )

    # 2. A model that fails halfway is of no use to anybody: it gets back what it had.
    before, training = copy.deepcopy(model.state_dict()), model.training
    first = _First(batches)
    try:
        apply(
            model, method, sparsity=sparsity, batches=first, loss_fn=loss_fn, include=include,
            exclude=exclude, seed=seed, **{**axes, "schedule": chosen},
        )  # fmt: skip
        make = optimizer or (
            lambda groups: torch.optim.SGD(groups, lr=learning_rate, momentum=0.9)
        )
        scheduler = Scheduler(
            model, make(parameter_groups(model)), epochs=epochs // runs,
            steps_per_epoch=length, batches=first, loss_fn=loss_fn,
        )  # fmt: skip
        losses = _train(model, scheduler, batches, loss_fn, distill)
    except BaseException:
        if programs(model):
            Merge()(model)
        model.load_state_dict(before)
        model.train(training)
        raise

    # 3. Plain weights, and statistics that belong to them.
    report = _report(method, scheduler, losses)
    merge(model)
    reestimate_batch_norm(model, batches)
    model.train(training)
    return report


@torch.no_grad()
def reestimate_batch_norm(
    model: nn.Module, batches: Iterable[Any], most: int = _NORM_BATCHES
) -> None:
    """Running means and variances of every batch norm anew, as means over the first `most` batches, in place.

    A pruning changes what the layers before a norm give, and in a short training the moving averages still hold some
    of the statistics from before it. Models without batch norm stay as they are.

    Args:
        batches: inputs, or pairs of them with targets.
        most: batches at least 1 to go through.

    >>> model = nn.Sequential(nn.BatchNorm1d(1))
    >>> reestimate_batch_norm(model, [torch.tensor([[1.0], [3.0]])])
    >>> model[0].running_mean.item(), model[0].running_var.item()
    (2.0, 2.0)
    """
    update_bn(itertools.islice(batches, most), model, _device(model))


class _First:
    """The first batches of a loader, read when a criterion asks for them and then kept, as pairs."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches, self._kept = batches, list[Any]()

    def __iter__(self) -> Any:
        if not self._kept:
            self._kept = list(itertools.islice(self._batches, _SCORING_BATCHES))
        return iter(self._kept)


def _length(batches: Iterable[Any] | None, epochs: int) -> int:
    """The number of batches of an epoch."""
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise MethodError(f"epochs={epochs!r} must be a whole number >= 1")
    try:
        length = len(batches)  # type: ignore[arg-type]
    except TypeError as error:
        raise DataError(
            f"finetune needs batches with a length, a DataLoader or a list of (inputs, targets); got "
            f"{type(batches).__name__}"
        ) from error
    if length < 1:
        raise DataError("finetune got no batches; expected at least one in an epoch")
    return length


def _train(
    model: nn.Module,
    scheduler: Scheduler,
    batches: Iterable[Any],
    loss_fn: Loss,
    distill: Distillation | None,
) -> list[float]:
    """The mean loss of each epoch."""
    device, losses = _device(model), []
    if distill is not None:
        distill.teacher.to(device)
    for epoch in range(1, scheduler.epochs + 1):
        model.train()
        total = torch.zeros((), device=device)
        for inputs, targets in batches:
            inputs, targets = _moved(inputs, device), _moved(targets, device)
            outputs = model(inputs)
            loss = loss_fn(outputs, targets)
            if distill is not None:
                loss = distill(loss, outputs, inputs)
            loss = loss + scheduler.penalty()
            loss.backward()  # type: ignore[no-untyped-call]
            for each in scheduler.optimizers:
                each.step()
                each.zero_grad()
            if scheduler.needs_batch:
                scheduler.score_on(inputs, targets)
            total += loss.detach()
            scheduler.step()
        # Read once an epoch: to look at a loss waits for the device.
        losses.append(float(total) / scheduler.steps_per_epoch)
        _LOG.info(
            "epoch %d of %d: loss %.4g, density %.4g",
            epoch,
            scheduler.epochs,
            losses[-1],
            scheduler.density(),
        )
        if not math.isfinite(losses[-1]):
            raise TrainingError(
                f"the loss became {losses[-1]} in epoch {epoch}; lower learning_rate. The model has its weights again"
            )
    return losses


def _report(method: str, scheduler: Scheduler, losses: list[float]) -> FinetuneReport:
    kept, total = scheduler.nonzeros(), scheduler.total_weights
    return FinetuneReport(method, 1 - kept / total, kept, total, tuple(losses))


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _moved(value: Any, device: torch.device) -> Any:
    """A tensor, or the tensors of a tuple, list or mapping, on the device."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, (tuple, list)):
        return type(value)(_moved(item, device) for item in value)
    if isinstance(value, dict):
        return {key: _moved(item, device) for key, item in value.items()}
    return value
