"""Which channels are constant, and what they equal: one walk from the inputs to the outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sparsify_fx.onnx_tools.view import GraphView
from sparsify_fx.passes.onnx_graph.channels.kinds import Kind, Values
from sparsify_fx.passes.onnx_graph.channels.spaces import Spaces


@dataclass
class Constants:
    """The constants found so far, by value name."""

    spaces: Spaces
    found: dict[str, Values] = field(default_factory=dict)

    @property
    def view(self) -> GraphView:
        """The graph that is walked, and its constants."""
        return self.spaces.view

    def of(self, name: str) -> Values:
        """[channels] of a tracked value, NaN where a channel is not constant."""
        # Nothing is found where nothing was looked for: unread-channels passes an empty `found`.
        known = self.found.get(name)
        return (
            np.full(self.spaces.tracks[name].size, np.nan) if known is None else known
        )


def find_constants(spaces: Spaces, kinds: Mapping[str, Kind]) -> Constants:
    """Constants of all tracked values; `kinds` by operator. Sums are taken in float64, results rounded to float32.

    A product with an exact zero counts as zero: activations are taken to be finite.
    """
    constants = Constants(spaces)
    for node in spaces.view.nodes:
        # Only what `track` understood has tracks, so its Kind can say what the channels equal.
        outputs = [name for name in node.output if name in spaces.tracks]
        if not outputs:
            continue
        # NaN is "not constant" here, and passes through sums and products as it should. An operator
        # that makes Inf of a constant is taken for not constant too: no bias could hold it.
        with np.errstate(all="ignore"):
            values = kinds[node.op_type].constants(node, constants)
        for name, value in zip(outputs, values, strict=True):
            constants.found[name] = np.where(np.isfinite(value), value, np.nan)
    return constants


def unknown(size: int) -> Values:
    """[size] channels of which nothing is known."""
    return np.full(size, np.nan)
