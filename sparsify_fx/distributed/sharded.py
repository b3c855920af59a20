"""Models under `fully_shard` (FSDP2): which of them can be trained sparsely, and whole copies of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from sparsify_fx.distributed.data_parallel import shards
from sparsify_fx.errors import SchedulerError
from sparsify_fx.programs.owners import programs, qualified
from sparsify_fx.programs.program import WeightProgram
from sparsify_fx.sharding import copy_in_full, reshard, sharded

M = TypeVar("M", bound=nn.Module)


def gathered(model: M, device: torch.device | str | None = "cpu") -> M:
    """A plain copy of a model that `fully_shard` has spread over processes: to export, to evaluate, to save.

    Gathered parameter by parameter; every process must call it, and each gets the copy.

    Args:
        device: of the copy; None: that of the model.

    >>> gathered(nn.Linear(2, 2)).weight.shape
    torch.Size([2, 2])
    """
    return copy_in_full(model, device=device)  # type: ignore[return-value]


def check_sharded(model: nn.Module) -> None:
    """Raise SchedulerError for a model of which this process holds a part that no mask can be chosen for.

    `fully_shard` alone is fine: every process then has consecutive rows of each weight.
    """
    if not reshard(model) and not any(map(sharded, model.parameters())):
        for reason in shards(model):
            raise SchedulerError(f"{reason}, {_INSTEAD}")
        return
    for name, tensor in _tensors(model):
        misplaced = _misplaced(tensor)
        if misplaced is not None:
            raise SchedulerError(f"{name} {misplaced}, {_INSTEAD}")
    for name, program in programs(model).items():
        _check_program(name, program)


_INSTEAD = (
    "so that this process holds a part of it that sparsify_fx cannot choose masks for: after sparsify_fx.apply, use "
    "torch.distributed.fsdp.fully_shard as it is, which shards rows, or torch.nn.parallel.DistributedDataParallel "
    "(ZeroRedundancyOptimizer and ZeRO stage 1 are no way around: they split optimizer state)"
)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for prefix, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if sharded(parameter):
                managed = getattr(module, "_is_fsdp_managed_module", False)
                yield qualified(prefix, name), parameter
                if not managed:
                    raise SchedulerError(
                        f"{qualified(prefix, name)} is a DTensor that fully_shard does not manage, {_INSTEAD}"
                    )


def _misplaced(tensor: Tensor) -> str | None:
    """Why shards are no consecutive rows; None where they are."""
    assert sharded(tensor)
    split = [each for each in tensor.placements if not each.is_replicate()]
    rows = [each for each in split if each.is_shard(0)]
    if len(split) == len(rows) == 1 and type(rows[0]).__name__ == "Shard":
        return None
    return f"is a DTensor with the placements {tensor.placements}"


def _check_program(name: str, program: WeightProgram) -> None:
    kinds = {sharded(tensor) for tensor in program.factor_tensors().values()}
    if len(kinds) > 1:
        raise SchedulerError(
            f"{name}: fully_shard has some of its factors and not others; give ignored_params= all or none"
        )
    if True in kinds and program.places() is not None and program.plan.changes:
        raise SchedulerError(
            f"{name} is in living storage, whose vectors change their lengths with the masks, and fully_shard takes "
            "lengths as they are: call sparsify_fx.apply(..., storage='auto') or storage='full' before it"
        )
