"""From the name of a granularity to the allocation that prunes so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from sparsify_fx.allocations import Allocation, Global, NofM, Uniform
from sparsify_fx.coupling.classes import Ids
from sparsify_fx.coupling.groups import Coupling, coupled_groups
from sparsify_fx.errors import LayerError, MethodError
from sparsify_fx.granularity.blocks import Blocks
from sparsify_fx.granularity.channels import Channels
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.selection import Layer
from sparsify_fx.recipe import ResolvedAxes
from sparsify_fx.schedules.regrow import RegrowEvery
from sparsify_fx.schedules.single import Late

WEIGHT = "weight"


def find_granularity(
    granularity: str,
    reduction: str,
    model: nn.Module,
    layers: Mapping[str, Layer],
    allocation: Allocation,
    example_inputs: Any,
) -> Allocation:
    """The allocation that prunes in groups of this granularity.

    Args:
        granularity: "weight", "channel", "channel:8" for multiples of 8, "head", "block:RxC", "n:m", or numbers such as
            "2:4".
        reduction: how a group's score comes from those of its weights.
        allocation: the method's; groups are divided by "global" and, channels and heads, by "uniform".
        example_inputs: for channels and heads, which are found in the traced model.

    Raises MethodError for another name, an allocation that has no meaning for groups, or missing inputs; LayerError
    where the model has no group that may go.
    """
    if granularity == WEIGHT:
        return allocation
    plain = type(allocation) in (Global, Uniform) and allocation == type(allocation)()
    if not plain:
        raise MethodError(
            f"granularity={granularity!r} divides by itself; leave allocation= out, or give 'global' or 'uniform'"
        )
    if granularity == "n:m":
        return NofM()
    if found := re.fullmatch(r"(\d+):(\d+)", granularity):
        return NofM(int(found[1]), int(found[2]))
    if found := re.fullmatch(r"block:(\d+)x(\d+)", granularity):
        return Blocks(int(found[1]), int(found[2]), reduction)
    found = re.fullmatch(r"channel(?::(\d+))?|head", granularity)
    if found is None:
        raise MethodError(
            f"granularity={granularity!r}: expected 'weight', 'channel', 'channel:8', 'head', 'block:32x1' or '2:4'"
        )
    uniform = isinstance(allocation, Uniform)
    channels = Channels(reduction, uniform, int(found[1] or 1))
    return _channels(granularity, channels, model, layers, example_inputs)


def in_groups(
    granularity: str,
    reduction: str,
    model: nn.Module,
    layers: Mapping[str, Layer],
    axes: ResolvedAxes,
    example_inputs: Any,
) -> ResolvedAxes:
    """The axes with the allocation of `find_granularity`; MethodError for schedules that break groups up."""
    refuse_moves(granularity, axes.schedule)
    allocation = find_granularity(
        granularity, reduction, model, layers, axes.allocation, example_inputs
    )
    return replace(axes, allocation=allocation)


def refuse_moves(granularity: str, schedule: object) -> None:
    """Raise MethodError for a schedule that moves single weights, which would break groups up."""
    if granularity != WEIGHT and isinstance(schedule, RegrowEvery):
        raise MethodError(
            f"granularity={granularity!r}: the schedule 'regrow' moves single weights; take another schedule"
        )
    if granularity != WEIGHT and isinstance(schedule, Late):
        raise MethodError(
            f"granularity={granularity!r}: methods that sparsify by themselves close the gates of single weights; take "
            "another method"
        )


def _channels(
    granularity: str,
    channels: Channels,
    model: nn.Module,
    layers: Mapping[str, Layer],
    example_inputs: Any,
) -> Channels:
    if example_inputs is None:
        raise MethodError(
            f"granularity={granularity!r} needs example_inputs=, a batch as the model takes it, to see what is coupled"
        )
    if programs(model):
        raise LayerError(
            f"granularity={granularity!r}: a part of this model is rewritten already; apply to all of it at once"
        )
    coupling = coupled_groups(model, example_inputs)
    names = _names(model, layers)
    may_go = _within(coupling, names)
    if granularity == "head":
        may_go = np.intersect1d(may_go, coupling.heads)
    families = [np.intersect1d(family, may_go) for family in coupling.families()]
    families = [family for family in families if family.size > 1]
    if not families:
        raise LayerError(
            f"{type(model).__name__} has no {granularity} that may go: all reach an output or an operator that is not "
            f"understood ({', '.join(coupling.unknown) or 'none'})"
        )
    members: dict[str, dict[int, Ids]] = {}
    kept = np.concatenate(families)
    for name, axes in coupling.axes.items():
        if name in names:
            members[names[name]] = {
                axis: np.where(np.isin(ids, kept), ids, 0) for axis, ids in axes.items()
            }
    return replace(channels, members=members, families=tuple(families))


def _names(model: nn.Module, layers: Mapping[str, Layer]) -> dict[str, str]:
    """The name of each prunable weight by every name that its tensor has in the model."""
    own = {id(layer.weight): name for name, layer in layers.items()}
    return {
        name: own[id(parameter)]
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if id(parameter) in own
    }


def _within(coupling: Coupling, names: Mapping[str, str]) -> Ids:
    """The classes of which all reading layers are pruned: zeros elsewhere would leave them read."""
    outside = [r.inputs for r in coupling.readings if r.weight not in names]
    read = np.concatenate([np.zeros(1, np.int64), *outside])
    return np.setdiff1d(coupling.removable(), read)
