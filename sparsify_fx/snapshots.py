"""Snapshots of model and optimizer at a rewind point, and how to go back to them, in place."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsify_fx.owners import programs
from sparsify_fx.passes import RewindBatchNorm, batchnorm_state
from sparsify_fx.program import WeightProgram, unmarked
from sparsify_fx.signs import signed_like

PARTS = ("weights", "signs", "magnitudes", "batchnorm", "optimizer")  # what can be rewound, in the order in which it is


def take_snapshot(model: nn.Module, optimizer: Optimizer, parts: Collection[str]) -> dict[str, Any]:
    """Copies of the asked parts, as plain types and tensors only.

    Args:
        parts: "weights" (every parameter and buffer but the masks), "signs" (of θ, int8), "magnitudes" (θ itself, for
            its sign where the current one is zero), "batchnorm", "optimizer" (its state).
    """
    snapshot: dict[str, Any] = {}
    if "weights" in parts:
        masks = _mask_names(model)
        state = {name: tensor for name, tensor in unmarked(model.state_dict()).items() if name not in masks}
        snapshot["weights"] = {name: tensor.detach().clone() for name, tensor in state.items()}
    if "signs" in parts:
        thetas = {name: program.theta() for name, program in programs(model).items()}
        snapshot["signs"] = {name: theta.sign().to(torch.int8) for name, theta in thetas.items()}
    if "magnitudes" in parts:
        snapshot["magnitudes"] = {name: program.theta().clone() for name, program in programs(model).items()}
    if "batchnorm" in parts:
        snapshot["batchnorm"] = batchnorm_state(model)
    if "optimizer" in parts:
        snapshot["optimizer"] = copy.deepcopy(optimizer.state_dict()["state"])
    return snapshot


def rewind(part: str, model: nn.Module, optimizer: Optimizer, snapshot: Mapping[str, Any]) -> None:
    """Bring one part of the model or optimizer back to the snapshot, under the current masks."""
    if part == "weights":
        _rewind_weights(model, snapshot["weights"])
    elif part in ("signs", "magnitudes"):
        _rewind_half(part, model, snapshot[part])
    elif part == "optimizer":
        _rewind_optimizer(model, optimizer, snapshot["optimizer"])
    elif snapshot["batchnorm"]:  # a model without batch norm has nothing to rewind
        RewindBatchNorm(snapshot["batchnorm"])(model)


@torch.no_grad()
def _rewind_weights(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    current = model.state_dict()
    for name, tensor in state.items():
        current[name].copy_(tensor)
    for program in programs(model).values():
        mask = program.current_mask()
        if mask is not None:
            program.write(torch.zeros_like(program.theta()), where=mask == 0)


def _rewind_half(part: str, model: nn.Module, recorded: Mapping[str, Tensor]) -> None:
    for name, program in programs(model).items():
        now, then, mask = program.theta(), recorded[name], program.current_mask()
        then = then.to(now.device)
        theta = signed_like(now, then) if part == "signs" else signed_like(then, now)
        program.write(theta, where=None if mask is None else mask == 1)


def _rewind_optimizer(model: nn.Module, optimizer: Optimizer, recorded: Mapping[int, Any]) -> None:
    # Not by load_state_dict: it would replace the groups, and with them a learning rate that is a tensor.
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    optimizer.state.clear()
    for index, state in recorded.items():
        optimizer.state[parameters[index]] = copy.deepcopy(state)
    clear_pruned_state(model, optimizer)


def clear_pruned_state(model: nn.Module, optimizer: Optimizer) -> None:
    """Zero the optimizer's per-entry state (momentum, second moments) wherever a mask is 0."""
    masks = {name: program.current_mask() for name, program in programs(model).items()}
    clear_state(model, optimizer, {name: mask == 0 for name, mask in masks.items() if mask is not None})


@torch.no_grad()
def clear_state(model: nn.Module, optimizer: Optimizer, entries: Mapping[str, Tensor]) -> None:
    """Zero the optimizer's per-entry state at `entries` (bool, shape of the weight, by weight name)."""
    for name, program in programs(model).items():
        for factor in program.factor_tensors().values() if name in entries else ():
            for value in optimizer.state.get(factor, {}).values():
                if isinstance(value, Tensor) and value.shape == entries[name].shape:
                    value.masked_fill_(entries[name], 0)


def _mask_names(model: nn.Module) -> set[str]:
    """State-dict names of all masks, also through second names of tied or shared owners."""
    modules = model.named_modules(remove_duplicate=False)
    return {f"{name}.mask" if name else "mask" for name, module in modules if isinstance(module, WeightProgram)}
