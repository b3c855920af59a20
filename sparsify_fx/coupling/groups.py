"""Groups of channels that must live or die together, for a whole model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from sparsify_fx.coupling.classes import Edge, Ids, Mask
from sparsify_fx.coupling.parts import first_line, followed, unused
from sparsify_fx.coupling.tracks import Reading, Resized, Tracks, Value
from sparsify_fx.coupling.whole_axes import whole_axes
from sparsify_fx.errors import LayerError

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Coupling:
    """Which slices of which tensors go together.

    Attributes:
        axes: for each parameter and buffer {axis: [size] the class of each slice}.
        stays: [classes] whether a class must stay; class 0 always does.
        readings: layers that mix channels, with the classes of what they read and make.
        values: the classes in each value of the graph, none of which may end up empty.
        resized: reshapes and the like, whose sizes may be written in the model's code.
        bare: norms without vectors, in whose code the width is written alone.
        heads: the classes that are heads of attention.
        unknown: operators that were not understood, and how often they kept channels.
        traced: whether the model, or parts of it, could be traced; where not, groups are the outputs of single layers.
        note: what could not be traced, and what that means; empty for a model that was traced as a whole.
        unreached: weights of layers that the example inputs do not reach, of a model that was traced as a whole.
    """

    axes: dict[str, dict[int, Ids]]
    stays: Mask
    readings: tuple[Reading, ...] = ()
    values: tuple[Ids, ...] = ()
    resized: tuple[Resized, ...] = ()
    ids: Ids = field(default_factory=lambda: np.zeros(1, np.int64))
    heads: Ids = field(default_factory=lambda: np.zeros(0, np.int64))
    unknown: dict[str, int] = field(default_factory=dict)
    traced: bool = True
    note: str = ""
    bare: tuple[Resized, ...] = ()
    unreached: tuple[str, ...] = ()

    def removable(self) -> Ids:
        """The classes that may go, in order."""
        present = self._along_axes()
        known = np.unique(np.concatenate(present)) if present else np.zeros(0, np.int64)
        return known[~self.stays[known]]

    def families(self) -> list[Ids]:
        """The removable classes that lie on one axis of a tensor: the channels of one width of the model, each once."""
        left, found = set(self.removable().tolist()), []
        for ids in self._along_axes():
            mine = np.array(sorted(left.intersection(ids.tolist())), np.int64)
            if mine.size:
                found.append(mine)
                left.difference_update(mine.tolist())
        return found

    def mixing(self) -> frozenset[str]:
        """The names of weights that mix channels, whose zeros say what is read."""
        return frozenset(reading.weight for reading in self.readings)

    def _along_axes(self) -> list[Ids]:
        found: list[Ids] = []
        for axes in self.axes.values():
            found += axes.values()
        return found


def coupled_groups(model: nn.Module, example_inputs: Any) -> Coupling:
    """The channels of a model that must live or die together.

    They are followed through torch.export's graph in eval mode: sums and products join them, concatenations and cuts
    pass them on, a grouped convolution joins those of a group, attention those of a head. What passes through an
    operator that is not understood, reaches an output, or is normalized together with others must stay.

    Args:
        model: any module that is not rewritten by `apply`; it is not changed.
        example_inputs: a tensor, a tuple of arguments, or a dict of them by name.

    Of a model that cannot be traced as a whole, such as a detector, the largest parts that can be are followed each by
    itself, between their inputs and outputs, with a note. Where there are none, groups are the rows of single layers,
    and `traced` is False. Raises LayerError for inputs that the model does not take.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> len(coupled_groups(net, torch.ones(1, 4)).removable())
    8
    """
    try:
        tracks, note = followed(model, example_inputs)
    except LayerError:
        raise
    except Exception as error:
        # torch.export raises whatever the model's own code, or one of its parts, raised.
        return _within_layers(model, f"{type(error).__name__}: {first_line(error)}")
    if note:
        _LOG.warning("%s: %s", type(model).__name__, note)
        return resolved(tracks, note)
    return replace(resolved(tracks), unreached=tuple(unused(model, tracks)))


def resolved(tracks: Tracks, note: str = "") -> Coupling:
    """The classes of all that was followed."""
    axes = whole_axes(tracks)
    # One class for all that stays: which one it is tells nothing. What no layer makes is no channel, such as the places
    # of a table of positions, of which the example takes a few.
    classes, stays = tracks.resolved()
    readings = [
        Reading(r.weight, classes[r.inputs], classes[r.outputs], r.transposed)
        for r in tracks.readings
    ]
    by_axis = {
        name: {axis: classes[ids] for axis, ids in mine.items()}
        for name, mine in axes.items()
    }
    return Coupling(
        axes={
            name: kept
            for name, mine in by_axis.items()
            if (kept := {axis: ids for axis, ids in mine.items() if ids.any()})
        },
        stays=stays,
        readings=tuple(readings),
        values=tuple(_members(tracks, classes)),
        resized=tuple(tracks.resized),
        bare=tuple(tracks.bare),
        ids=classes,
        heads=np.unique(classes[torch.cat([*tracks.heads, torch.zeros(1).long()])]),
        unknown=dict(tracks.unknown),
        note=note,
    )


def edges_of(coupling: Coupling, weights: Mapping[str, torch.Tensor]) -> list[Edge]:
    """What each layer reads with weights that are not zero, the last layers first."""
    edges = []
    for reading in reversed(coupling.readings):
        nonzero = (weights[reading.weight].detach() != 0).cpu()
        reads = nonzero.flatten(2).any(-1) if nonzero.ndim > 2 else nonzero
        matrix = reads.numpy()
        edges.append(
            Edge(
                reading.inputs,
                reading.outputs,
                matrix.T if reading.transposed else matrix,
            )
        )
    return edges


def _members(tracks: Tracks, classes: Ids) -> list[Ids]:
    """The classes in each value, each value of other classes once."""
    found = {}
    for value in tracks.values.values():
        for part in value if isinstance(value, list) else [value]:
            members = np.unique(classes[part.ids.numpy()])
            found[members.tobytes()] = members
    return list(found.values())


def _within_layers(model: nn.Module, reason: str) -> Coupling:
    """The rows of every weight, as groups of their own."""
    note = f"the model cannot be traced ({reason}); groups are the outputs of single layers, which cannot be removed"
    _LOG.warning("%s: %s", type(model).__name__, note)
    axes, count = {}, 1
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            rows = parameter.shape[0]
            axes[name] = {0: np.arange(count, count + rows)}
            count += rows
    # Its rows are taken for the model's outputs, all of which are wanted.
    if len(axes) > 1:
        axes.popitem()
    stays = np.zeros(count, bool)
    stays[0] = True
    return Coupling(axes, stays, traced=False, note=note)


def value_classes(coupling: Coupling, value: Value) -> Ids:
    """The class of every entry's id, in the shape in which the ids are stored."""
    found: Ids = coupling.ids[value.ids.numpy()]
    return found
