"""The rows of a file as a table for rich, in which names stay readable."""

from __future__ import annotations

from collections.abc import Sequence

from sparsify_fx.onnx_export.report.rows import LayerRow, count_macs
from sparsify_fx.tables.fitting import FittingTable


def layers_table(
    title: str, layers: Sequence[LayerRow], bytes_file: int
) -> FittingTable:
    """One line per prunable or encoded tensor, one for all others, and the total of the prunable ones."""
    spare = ["bound", "dense", "MACs left", "stored as"]
    if count_macs(layers) is None:  # nothing but dashes
        spare.sort(key=lambda heading: heading != "MACs left")
    table = FittingTable(title=title, spare=spare, needed=("bytes", "shape"))
    table.add_column("layer", overflow="fold")
    for heading in (
        "shape",
        "density",
        "MACs left",
        "dense",
        "bytes",
        "bound",
        "stored as",
    ):
        table.add_column(
            heading, justify="left" if heading == "shape" else "right", no_wrap=True
        )
    shown = [row for row in layers if _is_shown(row)]
    for row in shown:
        kind = "" if row.dtype == "float32" else f" {row.dtype}"
        how = row.encoding if row.values == "fp32" else f"{row.encoding} {row.values}"
        _add(table, row.name, "x".join(map(str, row.shape)) + kind, [row], how)
    # Biases and norms are many and small: one line for all.
    rest = [row for row in layers if not _is_shown(row)]
    if rest:
        _add(
            table,
            f"{len(rest)} other tensors",
            f"{_short(sum(row.size for row in rest))} in all",
            rest,
        )
    prunable = [row for row in layers if row.prunable]
    table.add_section()
    _add(
        table,
        "all prunable",
        f"{_short(sum(row.size for row in prunable))} in all",
        prunable,
    )
    table.add_row("the file", *[""] * 4, f"{bytes_file:,}")
    return table


def _is_shown(row: LayerRow) -> bool:
    """Prunable tensors and those that are not stored plainly have a line of their own."""
    return row.prunable or row.encoding != "dense"


def _add(
    table: FittingTable, name: str, shape: str, rows: Sequence[LayerRow], how: str = ""
) -> None:
    """One line of numbers for one tensor, or for the sum of several."""
    size, macs = sum(row.size for row in rows), count_macs(rows)
    density = f"{sum(row.nonzeros for row in rows) / size:.4f}" if size else "-"
    dense, stored = (
        sum(row.bytes_dense for row in rows),
        sum(row.bytes_stored for row in rows),
    )
    # The bound is one of prunable weights; of a sum with others it would mean nothing.
    bound = (
        _short(sum(row.bytes_bound for row in rows))
        if all(row.prunable for row in rows)
        else "-"
    )
    left = "-" if macs is None else _short(macs[1])
    table.add_row(name, shape, density, left, _short(dense), f"{stored:,}", bound, how)


def _short(number: float) -> str:
    """Three digits and a letter: 4089184256 -> 4.09G."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"
