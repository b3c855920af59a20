"""Snapshots of model and optimizers at a rewind point, and how to go back to them, in place."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsify_fx.numerics import signed_like
from sparsify_fx.optimizer_states import (
    clear_entries,
    following,
    restless,
    restore_optimizer_state,
    take_optimizer_state,
)
from sparsify_fx.passes import RewindBatchNorm, batchnorm_state
from sparsify_fx.programs.owners import current_masks, programs
from sparsify_fx.programs.program import WeightProgram
from sparsify_fx.programs.state import unmarked
from sparsify_fx.scheduler.places import at_places
from sparsify_fx.sharding import part as own_part
from sparsify_fx.sharding import shard, write_into

# What can be rewound, in the order in which it is: signs and magnitudes are written over rewound weights.
PARTS = (
    "weights",
    "signs",
    "magnitudes",
    "batchnorm",
    "optimizer",
)


@dataclass(frozen=True)
class Scope:
    """What of a training one part rewinds.

    Attributes:
        model: the whole model.
        view: the part's weight programs, or a module with no others.
        optimizers: all of them.
        names: the tensors of the model's state dict that go with the part; None for all.
    """

    model: nn.Module
    view: nn.Module
    optimizers: Sequence[Optimizer]
    names: frozenset[str] | None = None

    def holds(self, name: str) -> bool:
        """Whether a tensor of the state dict is rewound with this part."""
        return self.names is None or name in self.names

    def parameters(self) -> list[nn.Parameter]:
        """Its parameters, each once."""
        named = self.model.named_parameters(remove_duplicate=False)
        return list({parameter: None for name, parameter in named if self.holds(name)})


def take_snapshot(scope: Scope, parts: Collection[str]) -> dict[str, Any]:
    """Copies of the asked parts, as plain types and tensors only.

    Args:
        parts: "weights" (every parameter and buffer but the masks), "signs" (of θ, int8), "magnitudes" (θ itself, for
            its sign where the current one is zero), "batchnorm", "optimizer" (its state).
    """
    snapshot: dict[str, Any] = {}
    found = programs(scope.view)
    if "weights" in parts:
        stored = _stored(scope.model)
        snapshot["weights"] = {
            name: stored[name].restored(tensor) if name in stored else tensor.clone()
            for name, tensor in _rewindable(scope).items()
        }
    if "signs" in parts:
        snapshot["signs"] = {
            name: _signs(program.theta_in_place()) for name, program in found.items()
        }
    if "magnitudes" in parts:
        snapshot["magnitudes"] = {
            name: program.theta_in_place().clone() for name, program in found.items()
        }
    if "batchnorm" in parts:
        norms = batchnorm_state(scope.model)
        snapshot["batchnorm"] = {
            name: tensor for name, tensor in norms.items() if scope.holds(name)
        }
    if "optimizer" in parts:
        snapshot["optimizer"] = take_optimizer_state(
            scope.optimizers, scope.parameters()
        )
        living = {name: p.places() for name, p in found.items()}
        known = {n: t.clone() for n, t in living.items() if t is not None}
        if known:
            snapshot["places"] = known
    return snapshot


def rewind(part: str, scope: Scope, snapshot: Mapping[str, Any]) -> None:
    """Bring one part of the model or the optimizers back to the snapshot, under the current masks."""
    if part == "optimizer":
        with at_places(scope.view, scope.optimizers, snapshot.get("places", {})):
            _restore(scope, snapshot["optimizer"])
        clear_pruned_state(scope.view, scope.optimizers)
        return
    # Averages and fast copies that an optimizer keeps go back too, or it would pull the weights forward again.
    with following(scope.optimizers, scope.parameters()):
        _rewind_model(part, scope, snapshot)


def _rewind_model(part: str, scope: Scope, snapshot: Mapping[str, Any]) -> None:
    if part == "weights":
        _rewind_weights(scope, snapshot["weights"])
    elif part in ("signs", "magnitudes"):
        _rewind_half(part, scope.view, snapshot[part])
    # A model without batch norm has nothing to rewind. Norms of other parts are given what they have already, since the
    # pass wants all of them.
    elif snapshot["batchnorm"]:
        RewindBatchNorm({**batchnorm_state(scope.model), **snapshot["batchnorm"]})(
            scope.model
        )


def _rewindable(scope: Scope) -> dict[str, Tensor]:
    """Every parameter and persistent buffer of the scope but the masks, by name; not what only marks a state dict."""
    # The masks stay: to rewind them would take the pruning back. So does extra state, the progress of the training.
    masks = _mask_names(scope.model)
    state = unmarked(scope.model.state_dict())
    return {
        name: tensor
        for name, tensor in state.items()
        if name not in masks and scope.holds(name) and not name.endswith("_extra_state")
    }


@torch.no_grad()
def _rewind_weights(scope: Scope, state: Mapping[str, Tensor]) -> None:
    # The tensors themselves: what a state dict holds of vectors is without their room.
    current = scope.model.state_dict(keep_vars=True)
    stored = _stored(scope.model)
    for name, tensor in state.items():
        known = stored[name].stored(tensor) if name in stored else tensor
        # A state dict leaves out the room behind vectors.
        known = known[: len(current[name])] if name in stored else known
        write_into(current[name], known)
    for program in programs(scope.view).values():
        mask = program.current_mask()
        # What was alive at the rewind point has a value in the snapshot; under a mask that pruned it since, it goes.
        if mask is not None:
            zeros = program.zeros()
            program.write(zeros, where=mask == 0)


def _rewind_half(part: str, view: nn.Module, recorded: Mapping[str, Tensor]) -> None:
    for name, program in programs(view).items():
        own, mask = program.theta_in_place(), program.current_mask()
        now = own_part(own, own)
        then = own_part(recorded[name].to(own.device), own)
        # signed_like(size, sign): of the two moments one gives the sizes and the other the signs.
        theta = signed_like(now, then) if part == "signs" else signed_like(then, now)
        program.write(shard(theta, own), where=None if mask is None else mask == 1)


def _signs(theta: Tensor) -> Tensor:
    return shard(own_part(theta, theta).sign().to(torch.int8), theta)


def _restore(scope: Scope, recorded: Any) -> None:
    # Version 0.1 knew one optimizer, and only what torch.optim keeps of it.
    if isinstance(recorded, Mapping):
        kind = type(scope.optimizers[0]).__name__
        states = {number: {"": state} for number, state in recorded.items()}
        recorded = [
            [
                {
                    "kind": kind,
                    "state": states,
                    "at": {},
                    "mode": None,
                    "counters": {},
                    "own": None,
                }
            ]
        ]
    restore_optimizer_state(scope.optimizers, scope.parameters(), recorded)


def clear_pruned_state(view: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Fresh optimizer state (no momentum, no second moments) wherever a mask is 0."""
    masks = current_masks(programs(view))
    clear_state(view, optimizers, {name: mask == 0 for name, mask in masks.items()})


def clear_state(
    view: nn.Module, optimizers: Sequence[Optimizer], entries: Mapping[str, Tensor]
) -> None:
    """Fresh optimizer state at `entries` (bool, shape of the weight, by weight name)."""
    for name, program in programs(view).items():
        if name not in entries:
            continue
        known = program.stored(entries[name])
        for factor in program.factor_tensors().values():
            clear_entries(optimizers, factor, known)


def restless_programs(
    view: nn.Module, optimizers: Sequence[Optimizer]
) -> list[WeightProgram]:
    """The programs whose pruned entries an optimizer moves without a gradient; most optimizers have none."""
    found = programs(view).values()
    return [
        p
        for p in found
        if any(restless(optimizers, factor) for factor in p.factor_tensors().values())
    ]


def rest(moved: Collection[WeightProgram], optimizers: Sequence[Optimizer]) -> None:
    """Put the pruned entries of these programs back to zero, with fresh optimizer state; after every optimizer step."""
    for program in moved:
        mask = program.current_mask()
        # In living storage there is nothing at pruned entries that could move.
        if mask is not None and program.places() is None:
            zeros = program.zeros()
            program.write(zeros, where=mask == 0)
            for factor in program.factor_tensors().values():
                clear_entries(optimizers, factor, mask == 0)


def _mask_names(model: nn.Module) -> set[str]:
    """State-dict names of all masks, also through second names of tied or shared owners."""
    # Tied owners hold one program under several names, and a state dict lists all of them.
    modules = model.named_modules(remove_duplicate=False)
    return {
        f"{name}.mask" if name else "mask"
        for name, module in modules
        if isinstance(module, WeightProgram)
    }


def _stored(model: nn.Module) -> dict[str, WeightProgram]:
    """The programs in living storage by the state-dict names of what they store as vectors."""
    found: dict[str, WeightProgram] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, WeightProgram) and module.places() is not None:
            prefix = f"{name}." if name else ""
            found |= {prefix + entry: module for entry in module.per_entry()}
    return found
