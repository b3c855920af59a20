"""Snapshots of model and optimizers at a rewind point, and how to go back to them, in place."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsify_fx.owners import programs
from sparsify_fx.passes import RewindBatchNorm, batchnorm_state
from sparsify_fx.program import WeightProgram, unmarked
from sparsify_fx.signs import signed_like

PARTS = ("weights", "signs", "magnitudes", "batchnorm", "optimizer")  # what can be rewound, in the order in which it is


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

    def parameters(self) -> set[int]:
        """The ids of its parameters."""
        return {id(p) for name, p in self.model.named_parameters(remove_duplicate=False) if self.holds(name)}


def take_snapshot(scope: Scope, parts: Collection[str]) -> dict[str, Any]:
    """Copies of the asked parts, as plain types and tensors only.

    Args:
        parts: "weights" (every parameter and buffer but the masks), "signs" (of θ, int8), "magnitudes" (θ itself, for
            its sign where the current one is zero), "batchnorm", "optimizer" (its state).
    """
    snapshot: dict[str, Any] = {}
    found = programs(scope.view)
    if "weights" in parts:
        snapshot["weights"] = {name: tensor.detach().clone() for name, tensor in _rewindable(scope).items()}
    if "signs" in parts:
        snapshot["signs"] = {name: program.theta().sign().to(torch.int8) for name, program in found.items()}
    if "magnitudes" in parts:
        snapshot["magnitudes"] = {name: program.theta().clone() for name, program in found.items()}
    if "batchnorm" in parts:
        norms = batchnorm_state(scope.model)
        snapshot["batchnorm"] = {name: tensor for name, tensor in norms.items() if scope.holds(name)}
    if "optimizer" in parts:
        snapshot["optimizer"] = [_optimizer_state(optimizer, scope) for optimizer in scope.optimizers]
    return snapshot


def rewind(part: str, scope: Scope, snapshot: Mapping[str, Any]) -> None:
    """Bring one part of the model or the optimizers back to the snapshot, under the current masks."""
    if part == "weights":
        _rewind_weights(scope, snapshot["weights"])
    elif part in ("signs", "magnitudes"):
        _rewind_half(part, scope.view, snapshot[part])
    elif part == "optimizer":
        _rewind_optimizers(scope, snapshot["optimizer"])
    elif snapshot["batchnorm"]:  # a model without batch norm has nothing to rewind
        RewindBatchNorm({**batchnorm_state(scope.model), **snapshot["batchnorm"]})(scope.model)


def _rewindable(scope: Scope) -> dict[str, Tensor]:
    """Every parameter and persistent buffer of the scope but the masks, by name; not what only marks a state dict."""
    masks = _mask_names(scope.model)
    state = unmarked(scope.model.state_dict())
    return {
        name: tensor
        for name, tensor in state.items()
        if name not in masks and scope.holds(name) and not name.endswith("_extra_state")
    }


@torch.no_grad()
def _rewind_weights(scope: Scope, state: Mapping[str, Tensor]) -> None:
    current = scope.model.state_dict()
    for name, tensor in state.items():
        current[name].copy_(tensor)
    for program in programs(scope.view).values():
        mask = program.current_mask()
        if mask is not None:
            program.write(torch.zeros_like(program.theta()), where=mask == 0)


def _rewind_half(part: str, view: nn.Module, recorded: Mapping[str, Tensor]) -> None:
    for name, program in programs(view).items():
        now, then, mask = program.theta(), recorded[name], program.current_mask()
        then = then.to(now.device)
        theta = signed_like(now, then) if part == "signs" else signed_like(then, now)
        program.write(theta, where=None if mask is None else mask == 1)


def _optimizer_state(optimizer: Optimizer, scope: Scope) -> dict[int, Any]:
    """The state of the scope's parameters, by their number over all groups."""
    mine = scope.parameters()
    numbers = {i for i, p in enumerate(_parameters(optimizer)) if id(p) in mine}
    return {i: state for i, state in copy.deepcopy(optimizer.state_dict()["state"]).items() if i in numbers}


def _rewind_optimizers(scope: Scope, recorded: Sequence[Mapping[int, Any]] | Mapping[int, Any]) -> None:
    # Not by load_state_dict: it would replace the groups, and with them a learning rate that is a tensor.
    mine = scope.parameters()
    states = [recorded] if isinstance(recorded, Mapping) else recorded  # one alone: of version 0.1
    for optimizer, known in zip(scope.optimizers, states, strict=True):
        pairs = [(group, parameter) for group in optimizer.param_groups for parameter in group["params"]]
        for number, (group, parameter) in enumerate(pairs):
            if id(parameter) in mine:
                optimizer.state.pop(parameter, None)
                if number in known:
                    optimizer.state[parameter] = _on_device(known[number], group, parameter)
    clear_pruned_state(scope.view, scope.optimizers)


def _on_device(state: Mapping[str, Any], group: Mapping[str, Any], parameter: Tensor) -> dict[str, Any]:
    """A copy of a recorded state of one parameter, where the optimizer wants it: checkpoints come back on the CPU."""
    # As torch does it: step counts stay on the CPU, where kernels do not read them.
    stays = {"step"} if not (group.get("capturable") or group.get("fused")) else set()
    return {
        key: value.to(parameter.device, copy=True)
        if isinstance(value, Tensor) and key not in stays
        else copy.deepcopy(value)
        for key, value in state.items()
    }


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def clear_pruned_state(view: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Zero the optimizers' per-entry state (momentum, second moments) wherever a mask is 0."""
    masks = {name: program.current_mask() for name, program in programs(view).items()}
    clear_state(view, optimizers, {name: mask == 0 for name, mask in masks.items() if mask is not None})


@torch.no_grad()
def clear_state(view: nn.Module, optimizers: Sequence[Optimizer], entries: Mapping[str, Tensor]) -> None:
    """Zero the optimizers' per-entry state at `entries` (bool, shape of the weight, by weight name)."""
    for name, program in programs(view).items():
        for factor in program.factor_tensors().values() if name in entries else ():
            for optimizer in optimizers:
                for value in optimizer.state.get(factor, {}).values():
                    if isinstance(value, Tensor) and value.shape == entries[name].shape:
                        value.masked_fill_(entries[name], 0)


def _mask_names(model: nn.Module) -> set[str]:
    """State-dict names of all masks, also through second names of tied or shared owners."""
    modules = model.named_modules(remove_duplicate=False)
    return {f"{name}.mask" if name else "mask" for name, module in modules if isinstance(module, WeightProgram)}
