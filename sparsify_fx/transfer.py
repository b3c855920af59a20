"""Taking masks, signs, magnitudes or weights from another run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from sparsify_fx.api import effective_state_dict
from sparsify_fx.checkpoints.run_files import State, mask_key
from sparsify_fx.errors import CheckpointError, MethodError, SparsityError, unknown
from sparsify_fx.masks import nonzeros
from sparsify_fx.numerics import signed_like
from sparsify_fx.programs.owners import current_masks, programs
from sparsify_fx.programs.program import unmarked

M = TypeVar("M", bound=nn.Module)
TAKES = ("mask", "signs", "magnitudes", "weights")


def masked_state_dict(model: nn.Module) -> State:
    """`dense_state_dict` with the mask of each weight beside it, as `conv1.weight.mask` (uint8, 1 keeps).

    >>> from sparsify_fx import apply
    >>> list(masked_state_dict(apply(nn.Linear(4, 2), "random", sparsity=0.5)))
    ['weight', 'bias', 'weight.mask']
    """
    masks = {
        mask_key(name): mask.detach().clone()
        for name, mask in current_masks(programs(model)).items()
    }
    return effective_state_dict(model) | masks


def take_from(
    model: M,
    state: Mapping[str, Tensor],
    take: Collection[str] = ("mask", "signs"),
    *,
    init: Mapping[str, Tensor] | None = None,
) -> M:
    """Let `model` start with parts of another run; in place, the same object comes back.

    - "mask": the other's masks; they must keep as many weights as the model's own do now.
    - "signs": `θ ← |θ| · sign(θ')`; where θ' is zero the own sign stays.
    - "magnitudes": `θ ← sign(θ) · |θ'|`; where θ is zero the sign of θ' counts.
    - "weights": θ ← θ', and every other parameter and buffer that `state` holds.

    Call it after `apply` and before the optimizer and the Scheduler are built.

    Args:
        state: dense weights and masks by weight name, as `masked_state_dict` gives and run folders keep.
        take: any of the four; "weights" without signs and magnitudes.
        init: the model's weights before `apply`, by name. Weights that the new mask brings back start from them;
            needed with "mask" unless "magnitudes" or "weights" are taken too.

    Raises, with nothing changed: MethodError for an impossible `take` or weights without a value; CheckpointError for
    missing names or other shapes; SparsityError for masks with another number of non-zeros.

    >>> from sparsify_fx import apply
    >>> there = apply(nn.Linear(4, 2, bias=False), "random", sparsity=0.5, seed=1)
    >>> here = nn.Linear(4, 2, bias=False)
    >>> before = {"weight": here.weight.detach().clone()}
    >>> here = take_from(apply(here, "random", sparsity=0.5), masked_state_dict(there), init=before)
    >>> bool((here.weight.sign() == there.weight.sign()).all())
    True

    Source: [Gadhikar 2025], Table 1 (mask and signs of epoch 30 start another run); [Gadhikar 2024], Fig. 7.
    """
    # 1. Everything that can fail is tried before the first tensor is written.
    check_take(take)
    if not programs(model):
        raise MethodError(
            f"{type(model).__name__} was not prepared; call sparsify_fx.apply(model, method=...) first"
        )
    _check_state(model, state, take)
    masks = _new_masks(model, state) if "mask" in take else _masks(model)
    # 2. All new weights are computed from the old ones, ...
    thetas = {
        name: _new_theta(model, name, masks, state, take, init)
        for name in programs(model)
    }
    # 3. ... and only then written.
    for name, program in programs(model).items():
        if "mask" in take:
            program.set_mask(masks[name])
        program.write(thetas[name], where=masks[name] == 1 if name in masks else None)
    if "weights" in take:
        _copy_others(model, state)
    return model


def check_take(take: Collection[str]) -> None:
    """Raise UnknownNameError or MethodError for a `take` that `take_from` would refuse."""
    names = [take] if isinstance(take, str) else list(take)
    for name in names:
        if name not in TAKES:
            raise unknown("part to take", name, TAKES)
    if isinstance(take, str) or not names:
        raise MethodError(f"take={take!r} must be a list of {', '.join(TAKES)}")
    if "weights" in names and {"signs", "magnitudes"} & set(names):
        raise MethodError(
            f"take={names}: weights bring their signs and magnitudes; take one or the other"
        )


def _check_state(
    model: nn.Module, state: Mapping[str, Tensor], take: Collection[str]
) -> None:
    """Every name and shape that will be read."""
    wanted = {name: program.full_shape() for name, program in programs(model).items()}
    # A mask alone needs no weights of the other run: files that hold nothing but masks do.
    needed = dict(wanted) if set(take) != {"mask"} else {}
    if "mask" in take:
        needed |= {mask_key(name): shape for name, shape in wanted.items()}
    if "weights" in take:
        needed |= {
            name: tensor.shape
            for name, tensor in _others(model).items()
            if name in state
        }
    odd = [f"{name}: none" for name in needed if name not in state]
    odd += [
        f"{name}: {tuple(state[name].shape)} instead of {tuple(shape)}"
        for name, shape in needed.items()
        if name in state and state[name].shape != shape
    ]
    if odd:
        raise CheckpointError(
            f"the other run does not fit this model: {'; '.join(odd[:5])}; take from one like it"
        )


def _masks(model: nn.Module) -> dict[str, Tensor]:
    return current_masks(programs(model))


def _new_masks(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    own = _masks(model)
    if not own:
        raise MethodError(
            "this method has no masks to take into; choose one such as method='random'"
        )
    masks = {
        name: state[mask_key(name)].to(mask.device, torch.uint8)
        for name, mask in own.items()
    }
    if any(int(mask.max()) > 1 for mask in masks.values()):
        raise CheckpointError(
            "the masks of the other run hold values beside 0 and 1; take from a run's own files"
        )
    theirs, ours, total = (
        nonzeros(masks),
        nonzeros(own),
        sum(mask.numel() for mask in masks.values()),
    )
    # The Scheduler counts on the number that the plan asks for; another mask would end at another sparsity.
    if theirs != ours:
        raise SparsityError(
            f"the mask of the other run keeps {theirs} of {total} weights, this model {ours}; apply a method that "
            f"prunes at init, such as random, with sparsity={1 - theirs / total!r}"
        )
    return masks


def _new_theta(
    model: nn.Module,
    name: str,
    masks: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    take: Collection[str],
    init: Mapping[str, Tensor] | None,
) -> Tensor:
    program = programs(model)[name]
    theta, own = program.theta().clone(), program.current_mask()
    theirs = state[name].to(theta) if name in state else theta
    # Weights that were pruned here and live there have lost their values, which are zero under the mask.
    if own is not None and bool((back := (own == 0) & (masks[name] == 1)).any()):
        if init is not None:
            theta = torch.where(back, init[name].to(theta), theta)
        elif not {"weights", "magnitudes"} & set(take):
            raise MethodError(
                f"{name}: the mask of the other run brings back {int(back.sum())} weights that were pruned and have no "
                "value; give init= the weights before apply, or take magnitudes or weights too"
            )
    if "weights" in take:
        return theirs
    # Sign and magnitude of θ' together are θ' itself.
    if "signs" in take and "magnitudes" in take:
        return signed_like(theirs, theirs)
    if "signs" in take:
        return signed_like(theta, theirs)
    return signed_like(theirs, theta) if "magnitudes" in take else theta


def _others(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers beside the weight programs."""
    # The weights come through their programs; what is left are biases, norms and buffers.
    inside = tuple(f"{name}_program." for name in programs(model))
    return {
        name: tensor
        for name, tensor in unmarked(model.state_dict()).items()
        if not name.startswith(inside)
    }


@torch.no_grad()
def _copy_others(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    for name, tensor in _others(model).items():
        if name in state:
            tensor.copy_(state[name])
