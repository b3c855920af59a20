"""Which slices go, and the cut itself: tensors first, then the numbers of modules that depend on them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from sparsify_fx.coupling.classes import Ids, Mask, spread
from sparsify_fx.coupling.groups import Coupling, edges_of
from sparsify_fx.programs.owner_kinds import class_of
from sparsify_fx.shrinking.record import (
    Attribute,
    Kept,
    cut,
    named_tensors,
    replace_tensors,
)
from sparsify_fx.shrinking.sizes import sizes_in_code

_is_conv1d = class_of("transformers.pytorch_utils", "Conv1D")


def classes_that_stay(
    coupling: Coupling, weights: Mapping[str, Tensor], allowed: Ids
) -> Mask:
    """[classes]: whether each stays; only those `allowed` may go, and of them those that nothing reads.

    A class is read when a layer has a weight other than zero for it and for an output that stays. No tensor ends up
    without channels.
    """
    stays = np.ones_like(coupling.stays)
    stays[allowed] = coupling.stays[allowed]
    edges = edges_of(coupling, weights)
    spread(edges, stays)
    members_of = list(coupling.values)
    for axes in coupling.axes.values():
        members_of += axes.values()
    for members in members_of:
        # What the model's code leaves empty has none to keep.
        if len(members) and not stays[members].any():
            # The least of them; what that needs must stay too.
            stays[members.min()] = True
            spread(edges, stays)
    return stays


def kept_slices(coupling: Coupling, stays: Mask) -> Kept:
    """{name: {axis: the slices that stay}} of the tensors that lose some."""
    found: Kept = {}
    for name, axes in coupling.axes.items():
        for axis, ids in axes.items():
            if not stays[ids].all():
                index = torch.from_numpy(np.flatnonzero(stays[ids]))
                found.setdefault(name, {})[axis] = index
    return found


def under_all_names(model: nn.Module, kept: Kept) -> Kept:
    """The same with tied tensors under each of their names."""
    tensors = named_tensors(model)
    slices = {id(tensors[name]): axes for name, axes in kept.items()}
    return {n: slices[id(t)] for n, t in tensors.items() if id(t) in slices}


def attributes_of(
    model: nn.Module, coupling: Coupling, stays: Mask, kept: Kept
) -> list[Attribute]:
    """The numbers of modules that change with these slices."""
    found = {}
    for path, module in model.named_modules():
        for name, after in layer_numbers(path, module, kept).items():
            found[path, name] = Attribute(path, name, getattr(module, name), after)
    # Code that reshapes reads sizes from its module: those that are equal to a size that changes.
    for item in (*coupling.resized, *coupling.bare):
        for change in sizes_in_code(model, coupling, item, stays):
            found.setdefault((change.module, change.name), change)
    return [item for item in found.values() if item.before != item.after]


def layer_numbers(path: str, module: nn.Module, kept: Kept) -> dict[str, int]:
    """The numbers of torch's own layers, and of transformers' Conv1D, after the cut."""
    prefix = f"{path}." if path else ""
    axes = kept.get(f"{prefix}weight", {})
    rows, columns = (len(axes[axis]) if axis in axes else None for axis in (0, 1))
    names: dict[str, int | None] = {}
    if isinstance(module, nn.Linear):
        names = {"out_features": rows, "in_features": columns}
    elif isinstance(module, _ConvNd):
        names = _convolution_numbers(module, rows, columns)
    elif isinstance(module, nn.Embedding):
        names = {"embedding_dim": columns}
    elif isinstance(module, _NormBase):
        means = kept.get(f"{prefix}running_mean", {})
        names = {"num_features": rows or (len(means[0]) if 0 in means else None)}
    elif isinstance(module, nn.GroupNorm) and rows is not None:
        groups = module.num_groups * rows // module.num_channels
        names = {"num_channels": rows, "num_groups": groups}
    elif _is_conv1d(module):
        # Both, also where one stays: its code reshapes, and of two equal numbers only one may be meant.
        inputs, outputs = module.get_parameter("weight").shape
        names = {"nx": rows or inputs, "nf": columns or outputs}
    elif isinstance(module, nn.PReLU):
        names = {"num_parameters": rows}
    return {name: number for name, number in names.items() if number is not None}


def _convolution_numbers(
    module: _ConvNd, rows: int | None, columns: int | None
) -> dict[str, int | None]:
    transposed = isinstance(module, _ConvTransposeNd)
    first, second = ("in_channels", "out_channels") if transposed else ("out_channels", "in_channels")  # fmt: skip
    if module.groups == 1 or rows is None:
        return {first: rows, second: columns}
    # Whole groups go, inputs and outputs alike.
    share = rows / getattr(module, first)
    groups = round(module.groups * share)
    return {first: rows, second: round(getattr(module, second) * share), "groups": groups}  # fmt: skip


def cut_model(model: nn.Module, kept: Kept, attributes: list[Attribute]) -> None:
    """Cut the tensors and set the numbers, in place."""
    parameters = {n: p for n, p in model.named_parameters() if n in kept}
    gradients = {n: p.grad for n, p in parameters.items() if p.grad is not None}
    replace_tensors(model, kept, lambda name, value: cut(value, kept[name]))
    for name, gradient in gradients.items():
        parameters[name].grad = cut(gradient, kept[name])
    for item in attributes:
        setattr(model.get_submodule(item.module), item.name, item.after)
