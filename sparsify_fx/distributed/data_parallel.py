"""Wrappers of PyTorch: what DistributedDataParallel need not send, and models that are split over processes."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from torch import Tensor, nn

from sparsify_fx.errors import LayerError, SparsifyError
from sparsify_fx.living.stored import LIVING
from sparsify_fx.programs.owners import owners, program_name, qualified

# DistributedDataParallel reads it when it wraps the module.
_IGNORED = "_ddp_params_and_buffers_to_ignore"


def ignore_masks_in_ddp(model: nn.Module) -> None:
    """Let a DistributedDataParallel around `model` leave the masks alone, which it would send before every forward.

    Names that others have set stay. State dicts, copies and pickles are the same with it. A wrapper around a larger
    module does not know of it and sends the masks, which is slower and right as well.
    """
    # Added to what is there: other libraries list names here too.
    own = getattr(model, _IGNORED, ())
    setattr(
        model,
        _IGNORED,
        [*own, *(name for name in mask_names(model) if name not in own)],
    )


def restore_ddp(model: nn.Module) -> None:
    """Take back what `ignore_masks_in_ddp` did, for masks that are gone; call it after merging."""
    for module in model.modules():
        names = module.__dict__.get(_IGNORED)
        if names is None:
            continue
        masks = set(mask_names(module))
        # Names that others have set stay; masks of weights that were not merged are still there and stay too.
        left = [name for name in names if name in masks or not _is_mask(name)]
        if left:
            setattr(module, _IGNORED, left)
        else:
            delattr(module, _IGNORED)


def mask_names(model: nn.Module) -> list[str]:
    """The names of masks, and of places of living entries, among the model's buffers; second names of owners too."""
    # DistributedDataParallel compares names, and a tied owner has several: each has to be listed.
    found = {id(owner): tensors for owner, tensors in _owned(model)}
    names = []
    for name, module in model.named_modules(remove_duplicate=False):
        for tensor in found.get(id(module), ()):
            program = qualified(name, program_name(tensor))
            names += [f"{program}.mask", f"{program}.{LIVING}"]
    return names


def refuse_sharded(model: nn.Module, error: type[SparsifyError] = LayerError) -> None:
    """Raise `error` for a model of which this process holds a part: FSDP, FSDP2, tensor parallel, ZeRO stage 3.

    The factors that `apply` puts in place of a weight would not be sharded with it.
    """
    reason = next(shards(model), None)
    if reason is not None:
        raise error(
            f"{reason}, so that this process holds only a part of it; sparsify_fx.apply rewrites whole weights: call "
            "it on the plain model first, then torch.distributed.fsdp.fully_shard or "
            "torch.nn.parallel.DistributedDataParallel"
        )


def refuse_early_wrapping(model: nn.Module) -> None:
    """Raise LayerError when the model is wrapped in DistributedDataParallel already.

    It averages the gradients of the parameters that it found when it wrapped the model; factors that replace a weight
    afterwards would be trained by every rank on its own data alone.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.parallel.DistributedDataParallel):
            raise LayerError(
                f"{name or 'the model'} is wrapped in DistributedDataParallel, which averages the gradients of the "
                "parameters that it has seen, not of the factors that replace them: call sparsify_fx.apply on the "
                "plain model first, then wrap it"
            )


def _owned(model: nn.Module) -> Iterator[tuple[nn.Module, list[str]]]:
    found: dict[int, tuple[nn.Module, list[str]]] = {}
    for _, owner, tensor in owners(model):
        found.setdefault(id(owner), (owner, []))[1].append(tensor)
    yield from found.values()


def _is_mask(name: str) -> bool:
    return name.endswith(("_program.mask", f"_program.{LIVING}"))


def shards(model: nn.Module) -> Iterator[str]:
    """What is sharded, in words. Asks no module that nobody has imported."""
    # From sys.modules: importing FSDP takes long, and without it nothing can be sharded by it.
    fsdp, tensors = (
        sys.modules.get("torch.distributed.fsdp"),
        sys.modules.get("torch.distributed.tensor"),
    )
    for name, module in model.named_modules():
        label = name or f"the {type(module).__name__}"
        if fsdp is not None and isinstance(module, fsdp.FSDPModule):
            yield f"{label} was given to torch.distributed.fsdp.fully_shard"
        if fsdp is not None and isinstance(module, fsdp.FullyShardedDataParallel):
            yield f"{label} is wrapped in FullyShardedDataParallel"
        # FSDP sets this flag on the modules inside of its wrapper: given a part of the model, this finds it.
        if getattr(module, "_is_fsdp_managed_module", False):
            yield f"{label} is managed by FullyShardedDataParallel"
        for key, parameter in module._parameters.items():
            if (
                parameter is not None
                and tensors is not None
                and isinstance(parameter, tensors.DTensor)
            ):
                yield f"{qualified(name, key)} is a DTensor"
            if _is_zero_3(parameter):
                yield f"{qualified(name, key)} is partitioned by DeepSpeed (ZeRO stage 3)"


def _is_zero_3(parameter: Tensor | None) -> bool:
    return (
        parameter is not None
        and hasattr(parameter, "ds_id")
        and hasattr(parameter, "ds_status")
    )
