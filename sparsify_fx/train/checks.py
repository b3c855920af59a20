"""What a checkpoint must hold before a training goes on from it, beside the checksum of its file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.errors import CheckpointError
from sparsify_fx.scheduler.scheduler import Scheduler

REMEDY = "train again with --force"
_MASK = "_program.mask"


def check_parts(state: Mapping[str, Any], parts: tuple[str, ...]) -> None:
    """CheckpointError unless every part is there, with its values by name."""
    for part in parts:
        if not isinstance(state.get(part), Mapping):
            raise CheckpointError(
                f"the checkpoint holds no state of the {part}; {REMEDY}"
            )


def check_model(state: Mapping[str, Any], model: nn.Module) -> None:
    """CheckpointError unless masks are 0 or 1 and numbers finite; what is infinite in `model` itself may be so."""
    # The checksum proves that a file is as it was written, not that a training of this package wrote it, and files of
    # version 0.1 have none: hence these looks at the content.
    own = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"the checkpoint holds a {type(value).__name__} as {name}; {REMEDY}"
            )
        if str(name).endswith(_MASK) and bool(((value != 0) & (value != 1)).any()):
            raise CheckpointError(
                f"the checkpoint's mask {name} holds values beside 0 and 1; {REMEDY}"
            )
        # Buffers such as an attention mask hold -inf from the start, in the fresh model too.
        if not _finite(value) and (name not in own or _finite(own[name])):
            raise CheckpointError(
                f"the checkpoint's {name} holds NaN or Inf, so it is damaged or its training diverged; {REMEDY}, "
                "perhaps with a lower optimizer.lr"
            )


def check_optimizer_state(state: Mapping[str, Any]) -> None:
    """CheckpointError when a tensor holds NaN; infinities are the start of some optimizers' records."""
    for tensor in _tensors(state):
        if (tensor.is_floating_point() or tensor.is_complex()) and bool(
            tensor.isnan().any()
        ):
            raise CheckpointError(
                f"the checkpoint's optimizer state holds NaN; {REMEDY}, perhaps with a lower lr"
            )


def check_progress(state: Mapping[str, Any], scheduler: Scheduler) -> None:
    """CheckpointError unless epoch, step and the weights that live say the same; call it once all is loaded."""
    epoch, nonzeros = state.get("epoch"), state.get("nonzeros")
    step, within = scheduler.step_count, _within(state, scheduler)
    # In the middle of the first epoch none is done yet.
    if type(epoch) is not int or not 1 <= epoch + (within > 0) <= scheduler.epochs:
        raise CheckpointError(
            f"the checkpoint is of epoch {epoch!r}, the schedule has {scheduler.epochs}; {REMEDY}"
        )
    # Epoch and count, the scheduler's step and the masks are parts of their own: a file put together of two
    # checkpoints, each part sound by itself, is found out here.
    ends = epoch * scheduler.steps_per_epoch
    if step != ends + within:
        told = f", and of {within} steps after it" if within else ""
        raise CheckpointError(
            f"the checkpoint is of epoch {epoch}, which ends at step {ends}{told}, but its schedule stands at step "
            f"{step}; {REMEDY}"
        )
    # Version 0.1 did not write their number.
    if nonzeros is not None and nonzeros != scheduler.nonzeros():
        raise CheckpointError(
            f"the checkpoint was written with {nonzeros} weights, its masks keep {scheduler.nonzeros()}; {REMEDY}"
        )


def _within(state: Mapping[str, Any], scheduler: Scheduler) -> int:
    """Steps of the epoch in whose middle a checkpoint was written; 0 for the end of an epoch."""
    within = state.get("within")
    if within is None:
        return 0
    step = within.get("step") if isinstance(within, Mapping) else None
    if type(step) is not int or not 1 <= step < scheduler.steps_per_epoch:
        raise CheckpointError(
            f"the checkpoint is of step {step!r} of an epoch, which has {scheduler.steps_per_epoch}; {REMEDY}"
        )
    return step


@torch.no_grad()
def _finite(tensor: Tensor) -> bool:
    """Whether no entry is NaN or infinite."""
    return not (tensor.is_floating_point() or tensor.is_complex()) or bool(
        tensor.isfinite().all()
    )


def _tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor within mappings and lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
