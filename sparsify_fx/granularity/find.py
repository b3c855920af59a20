"""From the name of a granularity to the allocation that prunes so."""

from __future__ import annotations

import logging
import math
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
from sparsify_fx.granularity.reductions import RELATIVE
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.selection import Layer
from sparsify_fx.recipe import ResolvedAxes
from sparsify_fx.schedules.regrow import RegrowEvery
from sparsify_fx.schedules.single import Late
from sparsify_fx.shrinking.search import survivors

_LOG = logging.getLogger(__name__)
WEIGHT = "weight"
_NAMES = "'weight', 'channel', 'channel:8', 'head', 'block:32x1' or '2:4'"
# With another number of channels the kernels of CPUs take up to twice as long.
MULTIPLE = 4


def find_granularity(
    granularity: str,
    reduction: str | None,
    model: nn.Module,
    layers: Mapping[str, Layer],
    allocation: Allocation,
    example_inputs: Any,
) -> Allocation:
    """The allocation that prunes in groups of this granularity.

    Args:
        granularity: "weight", "channel", "channel:8" for multiples of 8, "head", "block:RxC", "n:m", or numbers such as
            "2:4".
        reduction: how a group's score comes from those of its weights; None: "relative" for channels and heads, which
            are of many sizes and depths, "mean" for blocks.
        allocation: the method's; groups are divided by "global" and, channels and heads, by "uniform".
        example_inputs: for channels and heads, which are found in the traced model.

    Raises MethodError for another name, an allocation that has no meaning for groups, or missing inputs; LayerError
    where the model has no group that may go.
    """
    if granularity == WEIGHT:
        return allocation
    if not _plain(allocation):
        raise MethodError(
            f"granularity={granularity!r} divides by itself; leave allocation= out, or give 'global' or 'uniform'"
        )
    if granularity == "n:m":
        return NofM()
    if found := re.fullmatch(r"(\d+):(\d+)", granularity):
        return NofM(int(found[1]), int(found[2]))
    if found := re.fullmatch(r"block:(\d+)x(\d+)", granularity):
        return Blocks(int(found[1]), int(found[2]), _or(reduction, "mean"))
    multiple = multiple_of(granularity)
    if multiple is None:
        raise MethodError(f"granularity={granularity!r}: expected {_NAMES}")
    uniform = isinstance(allocation, Uniform)
    channels = Channels(_or(reduction, RELATIVE), uniform)
    return _channels(granularity, channels, multiple, model, layers, example_inputs)


def _or(reduction: str | None, default: str) -> str:
    return default if reduction is None else reduction


def multiple_of(granularity: str) -> int | None:
    """The multiple of channels that stays of a width: 8 for "channel:8"; None for what is no channels or heads.

    Raises MethodError for a multiple of 0.
    """
    found = re.fullmatch(r"channel(?::(\d+))?|head", granularity)
    if found is None:
        return None
    multiple = int(found[1] or MULTIPLE)
    if multiple < 1:
        raise MethodError(
            f"granularity={granularity!r}: expected a number of at least 1, such as channel:8"
        )
    return multiple


def _plain(allocation: Allocation) -> bool:
    return type(allocation) in (Global, Uniform) and allocation == type(allocation)()


def in_groups(
    granularity: str,
    reduction: str | None,
    model: nn.Module,
    layers: Mapping[str, Layer],
    axes: ResolvedAxes,
    example_inputs: Any,
    asked: bool = True,
) -> ResolvedAxes:
    """The axes with the allocation of `find_granularity`; MethodError for schedules that break groups up, and for a
    reduction where there are no groups.

    Args:
        asked: whether the user gave the allocation. One that only the method suggests, such as "erk", is replaced by
            "uniform".
    """
    single = granularity == WEIGHT or re.fullmatch(r"n:m|\d+:\d+", str(granularity))
    if single and reduction is not None:
        raise MethodError(
            f"reduction={reduction!r} is how a group is scored, and granularity={granularity!r} scores single weights; "
            "leave it out, or prune groups, such as granularity='channel'"
        )
    if granularity == WEIGHT:
        return axes
    if not isinstance(granularity, str):
        raise MethodError(f"granularity={granularity!r}: expected {_NAMES}")
    refuse_moves(granularity, axes.schedule)
    own = axes.allocation if asked or _plain(axes.allocation) else Uniform()
    allocation = find_granularity(
        granularity, reduction, model, layers, own, example_inputs
    )
    return replace(axes, allocation=allocation)


def refuse_moves(granularity: str, schedule: object) -> None:
    """Raise MethodError for a schedule that moves single weights, which would break groups up."""
    if granularity == WEIGHT:
        return
    if isinstance(schedule, RegrowEvery):
        if multiple_of(granularity) is None:
            raise MethodError(
                f"granularity={granularity!r}: the schedule 'regrow' moves single weights, or whole channels and "
                "heads; take another schedule"
            )
        # Weights that are dead have neither momentum nor, in coupled rows and columns, a share of a layer's.
        if schedule.growth == "momentum" or schedule.redistribute:
            raise MethodError(
                f"granularity={granularity!r}: channels grow by 'gradient' or 'random', within their own width; take "
                "schedule={'name': 'regrow', 'growth': 'gradient'}"
            )
    if isinstance(schedule, Late):
        raise MethodError(
            f"granularity={granularity!r}: methods that sparsify by themselves close the gates of single weights; take "
            "another method"
        )


def _channels(
    granularity: str,
    channels: Channels,
    multiple: int,
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
    # What the model's code does not survive the loss of would be pruned for nothing.
    able, notes = survivors(model, coupling, example_inputs)
    for note in notes:
        _LOG.info("%s: %s", type(model).__name__, note)
    may_go = np.intersect1d(_within(coupling, names), able)
    if granularity == "head":
        may_go = np.intersect1d(may_go, coupling.heads)
    families = [np.intersect1d(family, may_go) for family in coupling.families()]
    families = [family for family in families if family.size > 1]
    if not families:
        unknown = ", ".join(coupling.unknown)
        reached = f"an output or what is not understood ({unknown})" if unknown else "an output"  # fmt: skip
        why = [coupling.note, *notes, f"the others reach {reached}" if notes else f"all reach {reached}"]  # fmt: skip
        raise LayerError(
            f"{type(model).__name__} has no {granularity} that may go: {'; '.join(filter(None, why))}. Of a part of a "
            "model, apply to the whole, where include= names the layers that read its outputs too"
        )
    made = {names[n]: 0 for n in coupling.axes if n in names}
    for reading in coupling.readings:
        if reading.weight in names and reading.transposed:
            made[names[reading.weight]] = 1
    members: dict[str, dict[int, Ids]] = {}
    kept = np.concatenate(families)
    for name, axes in coupling.axes.items():
        if name in names:
            members[names[name]] = {
                axis: np.where(np.isin(ids, kept), ids, 0) for axis, ids in axes.items()
            }
    return replace(
        channels,
        members=members,
        families=tuple(families),
        steps=tuple(_step(coupling, family, multiple) for family in families),
        made=made,
    )


def _step(coupling: Coupling, family: Ids, multiple: int) -> int:
    """A multiple of how many groups of a width is this multiple of channels, in every tensor."""
    first, widths = int(family[0]), []
    for axes in coupling.axes.values():
        widths += [int((ids == first).sum()) for ids in axes.values()]
    width = min(filter(None, widths), default=1)
    return multiple // math.gcd(multiple, width)


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
