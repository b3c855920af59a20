"""Tables whose first column is a name: it stays readable in a narrow terminal, and other columns give way.

Where the output is no terminal the table is plain wide text, one row a line, for grep and files.
"""

from __future__ import annotations

import copy
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

Value = str | int | float
Draw = Callable[[Any], None]
"""Draws into an empty matplotlib Figure."""

# Characters a line for a name that has to be folded, where there is room for them.
_NARROWEST = 20
# Longer names are folded before columns give way to them.
_LONGEST = 64
# Controls, writing directions, line and paragraph separators, surrogates: a name that a stranger
# chose must not move the cursor, turn the text around or break the row.
_HIDDEN = {"Cc", "Cf", "Zl", "Zp", "Cs"}
# Of category Cf too, but some scripts and emoji need them, and they do no harm.
_JOINERS = "\u200c\u200d"


def escaped(text: str) -> str:
    r"""Text with control characters, line breaks and other invisible ones as escapes, so that it prints as one line.

    >>> print(escaped("a\nb\x1b[31m"))
    a\nb\x1b[31m
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        letter.encode("unicode_escape").decode()
        if unicodedata.category(letter) in _HIDDEN and letter not in _JOINERS
        else letter
        for letter in text
    )


class FittingTable(Table):
    """A table for rich whose cells are plain text: nothing in them is markup.

    `spare`: headings of columns that are left out where there is no room, in this order, so that names stay whole;
    `needed`: those that are left out only when folded names would not fit either.
    """

    def __init__(
        self,
        *headings: str,
        spare: Sequence[str] = (),
        needed: Sequence[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(*headings, **options)
        self.spare, self.needed = tuple(spare), tuple(needed)

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        """As plain text where the output is no terminal and lines are short enough, else as the box that fits."""
        plain = self._as_text()
        if not console.is_terminal:
            # As Segments, which rich neither wraps nor crops: one row stays one line for grep.
            lines = plain.lines()
            if max(map(cell_len, lines), default=0) <= options.max_width:
                yield from (Segment(f"{line}\n") for line in lines)
                # The caption is prose: as Text it may be wrapped, which a row may not.
                yield from (Text(line) for line in _lines(self.caption))
                return
        yield from Table.__rich_console__(plain.fitted(options), console, options)

    def __rich_measure__(
        self, console: Console, options: ConsoleOptions
    ) -> Measurement:
        """The widths that rich may give the box that fits."""
        return Table.__rich_measure__(self._as_text().fitted(options), console, options)

    def _as_text(self) -> FittingTable:
        """A copy whose title, caption and cells are escaped texts."""
        # rich keeps its cells in the columns: a shallow copy of the table alone would escape them in
        # place, and a second printing would escape the backslashes of the first.
        table = copy.copy(self)
        table.columns = [copy.copy(column) for column in self.columns]
        for column in table.columns:
            column._cells = [_text(cell) for cell in column._cells]
        table.title = _text(self.title, "table.title") if self.title else None
        table.caption = (
            Text("\n".join(_lines(self.caption)), style="table.caption")
            if self.caption
            else None
        )
        return table

    def fitted(self, options: ConsoleOptions) -> FittingTable:
        """A copy with those columns that fit, and a caption that names the others."""
        if not self.columns:
            return self
        name, *others = self.columns
        widest = max(map(cell_len, self._texts(name)))
        needs = {str(each.header): self._needs(each) for each in others}
        edge = 1 if self.box else 0

        def room() -> int:
            # What is left for names: each column has a blank on either side and its own border.
            return (
                options.max_width
                - edge
                - (2 + edge) * (1 + len(needs))
                - sum(needs.values())
            )

        # Columns go one by one until names fit: first the spare ones, for names up to _LONGEST;
        # the needed ones only where a folded name would be narrower than _NARROWEST.
        without = []
        for headings, least in ((self.spare, _LONGEST), (self.needed, _NARROWEST)):
            for heading in headings:
                if heading in needs and room() < min(widest, least):
                    del needs[heading]
                    without.append(heading)
        table = copy.copy(self)
        table.columns = [
            copy.copy(column)
            for column in (name, *others)
            if column is name or str(column.header) in needs
        ]
        # By these numbers rich knows the first and the last column, whose padding differs.
        for index, column in enumerate(table.columns):
            column._index = index

        # Folded, not cut: half a name of a layer names no layer.
        if room() > 0:
            table.columns[0].width = min(widest, room())
            table.columns[0].overflow = "fold"
        if without:
            told = f"too narrow for {', '.join(without)}: see --json or a wider window"
            table.caption = Text(
                "\n".join([*_lines(self.caption), told]), style="table.caption"
            )
        return table

    def _needs(self, column: Column) -> int:
        """The width of the longest word, or of the longest cell where cells are not wrapped."""
        words = self._texts(column)
        if not column.no_wrap:
            words = " ".join(words).split()
        return max(map(cell_len, words), default=0)

    def _texts(self, column: Column) -> list[str]:
        return [str(column.header), *(str(cell) for cell in column._cells)]

    def lines(self) -> list[str]:
        """The title, the headings and one line a row, with columns as wide as they need."""
        texts = [self._texts(column) for column in self.columns]
        columns = []
        for column, cells in zip(self.columns, texts, strict=True):
            width = max(map(cell_len, cells), default=0)
            columns.append(
                [_padded(cell, width, column.justify == "right") for cell in cells]
            )
        rows = ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]
        return [*_lines(self.title), *rows]


def _padded(text: str, width: int, right: bool) -> str:
    room = " " * (width - cell_len(text))
    return room + text if right else text + room


def _text(cell: Any, style: str = "") -> Text:
    return Text(escaped(cell), style=style) if isinstance(cell, str) else cell


def _lines(text: Any) -> list[str]:
    """The lines of a title or caption, escaped."""
    return [escaped(line) for line in str(text).split("\n")] if text else []


@dataclass(frozen=True)
class Grid:
    """One table of results: a title, the columns' names, and rows of that many values."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]

    def table(self) -> FittingTable:
        """For the console; floats with four significant digits."""
        # The last column goes first; the second stays, since a name without any value tells nothing.
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
