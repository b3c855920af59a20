"""How results show themselves: in one line as a value, as tables when printed, as HTML in notebooks."""

from __future__ import annotations

import io
from collections.abc import Iterable
from html import escape
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sparsify_fx.tables.fitting import FittingTable, escaped

_WIDTH = 120


class Shown:
    """A result with tables: `repr` gives its headline, `print` its tables, and a notebook shows them as HTML.

    A subclass gives `headline` and either `tables` or `table`. A dataclass among them needs `repr=False`, or it would
    write a long text of its own.

    >>> class Speed(Shown):
    ...     def headline(self) -> str:
    ...         return "2 of 3 layers"
    >>> Speed()
    <Speed: 2 of 3 layers>
    """

    def headline(self) -> str:
        """The result in a few words."""
        raise NotImplementedError

    def tables(self) -> Iterable[Table]:
        """Everything that is printed; its own `table` where it has one."""
        table = getattr(self, "table", None)
        return () if table is None else (table(),)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {escaped(self.headline())}>"

    def __str__(self) -> str:
        return text_of(self.tables()) or repr(self)

    def _repr_html_(self) -> str:
        return html_of(self.tables(), self.headline())


def text_of(tables: Iterable[Table]) -> str:
    """Tables as text of one width, without color, so that logs and terminals show the same."""
    buffer = io.StringIO()
    console = Console(file=buffer, width=_WIDTH, color_system=None)
    for table in tables:
        console.print(table)
    return buffer.getvalue().rstrip()


def html_of(tables: Iterable[Table], headline: str = "") -> str:
    """Tables as HTML that takes its looks from the page around it, in light and in dark."""
    shown = "".join(_html(table) for table in tables)
    # A wide table scrolls by itself and not the page.
    style = "overflow-x: auto; max-height: 40em"
    return f'<div style="{style}"><p>{_cell(headline)}</p>{shown}</div>'


def _html(table: Table) -> str:
    columns = table.columns
    head = "".join(f"<th>{_cell(column.header)}</th>" for column in columns)
    rows = [
        "".join(
            f'<td style="text-align: {column.justify}">{_cell(cell)}</td>'
            for column, cell in zip(columns, cells, strict=True)
        )
        for cells in zip(*(column.cells for column in columns), strict=True)
    ]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    title = f"<caption>{_cell(table.title)}</caption>" if table.title else ""
    below = f"<p>{_cell(table.caption)}</p>" if table.caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}"


def _cell(value: Any) -> str:
    """One cell as text in HTML: nothing in it is markup, wherever its words come from."""
    text = value.plain if isinstance(value, Text) else str(value or "")
    return "<br>".join(escape(escaped(line)) for line in text.split("\n"))


def facts(title: str, rows: Iterable[tuple[str, str]]) -> FittingTable:
    """A table of names and what is said of each."""
    table = FittingTable("", "", title=title, show_header=False)
    for name, value in rows:
        table.add_row(name, value)
    return table
