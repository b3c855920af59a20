"""Masks that lie beside their weights, as other libraries keep them, made into zeros of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.ao.pruning.sparsifier.utils import FakeSparsity
from torch.nn.utils import parametrize, prune

from sparsify_fx.errors import CheckpointError, LayerError
from sparsify_fx.programs.owners import qualified

M = TypeVar("M", bound=nn.Module)
_ORIGINAL, _MASK = "_orig", "_mask"
_PARAMETRIZED = ".original"


def fold_masks(model: M) -> M:
    """`weight_orig` and `weight_mask` become a plain `weight` with zeros, in place; the model comes back.

    θ = weight_orig ⊙ weight_mask, for the layers under `torch.nn.utils.prune` and those that a sparsifier of
    `torch.ao.pruning` (torchao's among them) has prepared. Afterwards `apply(model, "keep-zeros")` keeps these zeros.

    Raises LayerError, with nothing changed, for a model without such masks, for masks with other values than 0 and 1,
    and for a mask that lies among other parametrizations.

    >>> model = nn.Sequential(nn.Linear(4, 2))
    >>> _ = prune.l1_unstructured(model[0], "weight", amount=0.5)
    >>> fold_masks(model).state_dict()["0.weight"].count_nonzero()
    tensor(4)
    """
    pruned = list(_pruned(model))
    prepared = list(_prepared(model))
    if not pruned and not prepared:
        raise LayerError(
            f"{type(model).__name__} has no mask of torch.nn.utils.prune or torch.ao.pruning to fold; zeros that are "
            "in the weights already need no folding: apply(model, 'keep-zeros')"
        )
    # All are looked at before the first is folded.
    for name, module, tensor in pruned:
        _check_mask(getattr(module, tensor + _MASK), qualified(name, tensor))
    for name, module, tensor in prepared:
        _check_alone(module, tensor, qualified(name, tensor))

    for _, module, tensor in pruned:
        prune.remove(module, tensor)  # type: ignore[no-untyped-call]
    for _, module, tensor in prepared:
        parametrize.remove_parametrizations(module, tensor, leave_parametrized=True)
    return model


def folded_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in which every pair of `..._orig` and `..._mask` is one plain tensor with zeros; nothing is changed.

    θ = orig ⊙ mask under the original name, at the place of the first of the two; all other entries stay.

    Raises CheckpointError for a state without such a pair, for one of a pair without the other, for shapes that differ,
    and for masks with other values than 0 and 1.

    >>> import torch
    >>> state = {"fc.weight_orig": torch.ones(2, 2), "fc.weight_mask": torch.eye(2), "fc.bias": torch.zeros(2)}
    >>> {name: tensor.tolist() for name, tensor in folded_state_dict(state).items()}
    {'fc.weight': [[1.0, 0.0], [0.0, 1.0]], 'fc.bias': [0.0, 0.0]}
    """
    names = [key.removesuffix(_MASK) for key in state if _is_mask(key, state)]
    if not names:
        _refuse(state)
    folded = {}
    for key, value in state.items():
        name = key.removesuffix(_MASK).removesuffix(_ORIGINAL)
        if name not in names:
            folded[key] = value
        elif name not in folded:
            folded[name] = _product(name, state)
    return folded


def _is_mask(key: str, state: Mapping[str, Tensor]) -> bool:
    # "attention_mask" may be a buffer of its own; one beside a "..._orig" is that of a pruned weight.
    return key.endswith(_MASK) and key.removesuffix(_MASK) + _ORIGINAL in state


def _refuse(state: Mapping[str, Tensor]) -> None:
    # A sparsifier of torch.ao.pruning leaves its masks out of state dicts, so nothing could tell what is pruned.
    prepared = [key for key in state if key.endswith(_PARAMETRIZED)]
    if prepared:
        raise CheckpointError(
            f"{prepared[0]} is a parametrized weight whose mask is not in the state; call sparsifier.squash_mask() or "
            "sparsify_fx.fold_masks(model) before saving"
        )
    alone = [key for key in state if key.endswith(_ORIGINAL)]
    if alone:
        wanted = alone[0].removesuffix(_ORIGINAL) + _MASK
        raise CheckpointError(f"{alone[0]} has no {wanted} beside it; save both")
    raise CheckpointError(
        f"none of these {len(state)} entries is a pair such as weight_orig and weight_mask; a state with zeros in its "
        "weights needs no folding: load it and apply(model, 'keep-zeros')"
    )


def _product(name: str, state: Mapping[str, Tensor]) -> Tensor:
    original, mask = state[name + _ORIGINAL], state[name + _MASK]
    if original.shape != mask.shape:
        raise CheckpointError(
            f"{name}{_MASK} has the shape {tuple(mask.shape)}, {name}{_ORIGINAL} {tuple(original.shape)}; they are of "
            "two models"
        )
    if not _is_binary(mask):
        raise CheckpointError(
            f"{name}{_MASK} has values beside 0 and 1 and is no mask; expected one of torch.nn.utils.prune"
        )
    return original.detach() * mask.to(original)


def _pruned(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """(name, layer, tensor) of every mask of torch.nn.utils.prune."""
    for name, module in model.named_modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, prune.BasePruningMethod):
                yield name, module, hook._tensor_name


def _prepared(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """(name, layer, tensor) of every mask of a sparsifier of torch.ao.pruning."""
    for name, module in model.named_modules():
        if not parametrize.is_parametrized(module):
            continue
        chains: Any = module.parametrizations
        for tensor, chain in chains.items():
            if any(isinstance(step, FakeSparsity) for step in chain):
                yield name, module, tensor


def _check_alone(module: nn.Module, tensor: str, name: str) -> None:
    chains: Any = module.parametrizations
    masks: list[Any] = [
        step.mask for step in chains[tensor] if isinstance(step, FakeSparsity)
    ]
    others = [
        type(step).__name__
        for step in chains[tensor]
        if not isinstance(step, FakeSparsity)
    ]
    if others:
        raise LayerError(
            f"{name} has the parametrization {others[0]} beside its mask; remove that first, by "
            "torch.nn.utils.parametrize.remove_parametrizations"
        )
    for mask in masks:
        _check_mask(mask, name)


def _check_mask(mask: Tensor, name: str) -> None:
    if not _is_binary(mask):
        raise LayerError(
            f"the mask of {name} has values beside 0 and 1; expected 1 for what stays and 0 for what is pruned"
        )


def _is_binary(mask: Tensor) -> bool:
    return bool(((mask == 0) | (mask == 1)).all())
