"""Tables of results, as analyses and laboratory experiments print and save them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sparsify_fx.tables.fitting import FittingTable

Value = str | int | float
Draw = Callable[[Any], None]
"""Draws into an empty matplotlib Figure."""


@dataclass(frozen=True)
class Grid:
    """One table of results: a title, the columns' names, and rows of that many values."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]

    def table(self) -> FittingTable:
        """For the console; floats with four significant digits."""
        table = FittingTable(title=self.title, needed=self.columns[:1:-1])
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="left" if index == 0 else "right")
        for row in self.rows:
            table.add_row(*(_shown(value) for value in row))
        return table


def _shown(value: Value) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value
