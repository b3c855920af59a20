"""The rows of the passes as a table."""

from __future__ import annotations

from collections.abc import Sequence

from sparsify_fx.passes.onnx_graph.base import PassRow
from sparsify_fx.tables.fitting import FittingTable


def passes_table(rows: Sequence[PassRow]) -> FittingTable | None:
    """The passes that changed something, and their total, and why others were left out; None when there are none."""
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
