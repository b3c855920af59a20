"""Unfinished schedules: a model that has another sparsity than its plan asks for says so before it leaves."""

from __future__ import annotations

from torch import nn

from sparsify_fx.errors import UnfinishedWarning, warn
from sparsify_fx.masks import kept_count
from sparsify_fx.plan import plans_of
from sparsify_fx.programs.progress import UNKNOWN
from sparsify_fx.scheduler.parts import Part, parts_of


def unfinished(model: nn.Module) -> tuple[str, ...]:
    """One sentence for each part whose masks keep another number of weights than its plan asks for.

    Both numbers and the step that the training has reached. Nothing for plain models, bare passes and methods without
    masks.

    >>> from sparsify_fx import apply
    >>> unfinished(apply(nn.Linear(10, 10), "random", sparsity=0.5))
    ()
    >>> print(*unfinished(apply(nn.Linear(10, 10), "gmp", sparsity=0.9)))
    gmp was asked for sparsity 0.9 (10 of 100 weights), the model has 0 (100) and no Scheduler has begun
    """
    if not plans_of(model):
        return ()
    # Not strict: a model is told of on its way out, where bare passes beside a plan are no error.
    return tuple(
        part.says(told)
        for part in parts_of(model, strict=False)
        if (told := _unfinished(part))
    )


def warn_unfinished(model: nn.Module, done: str) -> tuple[str, ...]:
    """Warn with every sentence of `unfinished`, and return them; `done`: what happens to the model now."""
    told = unfinished(model)
    if told:
        warn(
            f"{done} before its schedule has ended: {'; '.join(told)}. Train until scheduler.finished (steps_per_epoch "
            "counts optimizer steps: with gradient accumulation fewer than batches), or apply the method with the "
            "sparsity that you want to have",
            UnfinishedWarning,
        )
    return told


def _unfinished(part: Part) -> str:
    masks = [program.current_mask() for program in part.programs.values()]
    # Methods without masks promise no number; masks without values cannot be counted.
    if any(mask is None or mask.is_meta for mask in masks):
        return ""
    total = part.total()
    asked, kept = (
        kept_count(total, part.plan.sparsity),
        sum(int(mask.sum()) for mask in masks if mask is not None),
    )
    # Groups that go as a whole seldom meet the number: they keep at most that many.
    whole_groups = getattr(part.plan.axes.allocation, "whole_groups", False)
    if kept == asked or (whole_groups and kept < asked):
        return ""
    progress = part.progress
    reached = (
        f"after step {progress.step} of {progress.steps}"
        if progress.steps
        else "and no Scheduler has begun"
    )
    # Dense weights and those of version 0.1 were loaded into a training.
    if progress.step == UNKNOWN:
        reached = "at a step that its checkpoint does not tell"
    return (
        f"{part.plan.method} was asked for sparsity {part.plan.sparsity:g} ({asked} of {total} weights), the model has "
        f"{1 - kept / total:.4g} ({kept}) {reached}"
    )
