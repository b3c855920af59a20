"""What a pass over an ONNX graph is, and what the runner reports about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import onnx


@dataclass(frozen=True)
class GraphPass:
    """A named rewrite of an `onnx.ModelProto`.

    `run` works in place and says truthfully whether it changed anything, so a second run says False. Where it does
    not understand something (a subgraph, an unknown operator or shape) it leaves that part as it is. `exact`: the
    outputs keep their bits wherever the kernels of the runtime do not depend on the number of channels.
    """

    name: str
    run: Callable[[onnx.ModelProto], bool]
    exact: bool

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class PassRow:
    """What one pass removed from a model, summed over its runs.

    `changes`: how many of its runs changed something. `channels`: output channels of convolutions and matrix products.
    `macs`: multiply-accumulates of one sample, dynamic axes counted as 1. `bytes`: of the serialised model. A negative
    number was added: a folded shift gives a convolution the bias it lacked. `note`: why the pass was left out, if so.

    >>> PassRow("drop-unused", 1, 0, 0, 0, 512).to_dict()["bytes"]
    512
    """

    name: str
    changes: int
    nodes: int
    channels: int
    macs: int
    bytes: int
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return asdict(self)
