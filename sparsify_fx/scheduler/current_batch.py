"""Scores of the current batch, where a training divides it into micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sparsify_fx.plan import Inputs

if TYPE_CHECKING:
    from sparsify_fx.scheduler.scheduler import Scheduler


def score_on_batches(
    scheduler: Scheduler,
    batches: Iterable[tuple[Any, Any]],
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
) -> None:
    """Let the next `step()` score on these batches of the whole model, all equally long; see `Scheduler.score_on`."""
    given = list(batches)
    for track in scheduler._tracks:
        track.score_on(Inputs(given, loss_fn or track.pruner.inputs.loss_fn))
