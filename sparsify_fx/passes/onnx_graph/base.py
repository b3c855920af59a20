"""What a pass over an ONNX graph is, and what the runner reports about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import onnx

from sparsify_fx.tables.fitting import FittingTable


@dataclass(frozen=True)
class GraphPass:
    """A named rewrite of an `onnx.ModelProto`.

    `run` works in place and says truthfully whether it changed anything, so a second run says False. Where it does
    not understand something (a subgraph, an unknown operator or shape) it leaves that part as it is. `exact`: the
    outputs keep their bits wherever the kernels of the runtime do not depend on the number of channels.

    Every pass may count on:
        1. the model is sound: texts are texts, tensors have the data of their shapes (`optimize` checks it first);
        2. nodes stand in topological order, and a name is made once.

    Every pass sees to it that:
        1. inputs and outputs of the graph keep their names, types, shapes and order;
        2. nothing reads a name that nothing makes;
        3. values that subgraphs read keep their names and shapes.
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
    `macs`: multiply-accumulates of one sample, dynamic axes counted as 1. `bytes`: of the serialized model. A negative
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
        """All fields by name, ready for JSON."""
        return asdict(self)


def passes_table(rows: Sequence[PassRow]) -> FittingTable | None:
    """The passes that changed something, and their total, and why others were left out; None when there are none."""
    # A pass that changed nothing has no row, unless it was left out: the user must learn why.
    active, notes = (
        [row for row in rows if row.changes],
        [f"{row.name} {row.note}" for row in rows if row.note],
    )
    if not active and not notes:
        return None
    table = FittingTable(
        title="removed by the passes over the graph",
        spare=("bytes", "channels"),
        needed=("MACs",),
    )
    table.add_column("pass", overflow="fold")
    for heading in ("nodes", "channels", "MACs", "bytes"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in active:
        table.add_row(row.name, *(f"{number:,}" for number in _numbers(row)))
    # Sums over no rows at all are zeros: only notes are told then.
    table.add_section()
    total = [
        sum(numbers)
        for numbers in zip((0, 0, 0, 0), *map(_numbers, active), strict=True)
    ]
    table.add_row("all", *(f"{number:,}" for number in total))
    table.caption = "\n".join(notes) or None
    return table


def _numbers(row: PassRow) -> tuple[int, int, int, int]:
    return row.nodes, row.channels, row.macs, row.bytes
