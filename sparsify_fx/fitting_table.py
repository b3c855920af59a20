"""Tables whose first column is a name: it stays readable in a narrow terminal, and other columns give way.

Where the output is no terminal the table is plain wide text, one row a line, for grep and files.
"""

from __future__ import annotations

import copy
import unicodedata
from collections.abc import Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

_NARROWEST = 20  # characters a line for a name that has to be folded, where there is room for them
_LONGEST = 64  # longer names are folded before columns give way to them
_HIDDEN = {"Cc", "Cf", "Zl", "Zp", "Cs"}  # controls, writing directions, line and paragraph separators, surrogates
_JOINERS = "\u200c\u200d"  # which some scripts and emoji need


def escaped(text: str) -> str:
    r"""Text with control characters, line breaks and other invisible ones as escapes, so that it prints as one line.

    >>> print(escaped("a\nb\x1b[31m"))
    a\nb\x1b[31m
    """
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

    def __init__(self, *headings: str, spare: Sequence[str] = (), needed: Sequence[str] = (), **options: Any) -> None:
        super().__init__(*headings, **options)
        self.spare, self.needed = tuple(spare), tuple(needed)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As plain text, or as the box that fits."""
        plain = self._as_text()
        if not console.is_terminal:
            lines = plain.lines()
            if max((len(line) for line in lines), default=0) <= options.max_width:
                yield from (Segment(f"{line}\n") for line in [*lines, *_lines(self.caption)])
                return
        yield from Table.__rich_console__(plain.fitted(console, options), console, options)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Of the box that fits."""
        return Table.__rich_measure__(self._as_text().fitted(console, options), console, options)

    def _as_text(self) -> FittingTable:
        """A copy whose title, caption and cells are escaped texts."""
        table = copy.copy(self)
        table.columns = [copy.copy(column) for column in self.columns]
        for column in table.columns:
            column._cells = [_text(cell) for cell in column._cells]
        table.title = _text(self.title, "table.title") if self.title else None
        table.caption = Text("\n".join(_lines(self.caption)), style="table.caption") if self.caption else None
        return table

    def fitted(self, console: Console, options: ConsoleOptions) -> FittingTable:
        """A copy with those columns that fit, and a caption that names the others."""
        table, without = copy.copy(self), []
        for headings, folding in ((self.spare, False), (self.needed, True)):
            for heading in headings:
                if table._room(options) < min(table._widest_name(), _NARROWEST if folding else _LONGEST):
                    table.columns = [column for column in table.columns if column.header != heading]
                    without.append(heading)
        table.columns = [copy.copy(column) for column in table.columns]
        for index, column in enumerate(table.columns):
            column._index = index
        if table.columns and (room := table._room(options)) > 0:
            table.columns[0].width, table.columns[0].overflow = min(table._widest_name(), room), "fold"
        if without:
            told = f"too narrow for {', '.join(without)}: see --json or a wider window"
            lines = [*_lines(self.caption), told]
            table.caption = Text("\n".join(lines), style="table.caption")
        return table

    def _widest_name(self) -> int:
        return max(map(len_of, self._texts(self.columns[0])), default=0) if self.columns else 0

    def _room(self, options: ConsoleOptions) -> int:
        """What the other columns leave for the first."""
        needs = sum(max(map(len_of, self._unbroken(column)), default=0) for column in self.columns[1:])
        edges = len(self.columns) + 1 if self.box else 0
        return options.max_width - needs - 2 * len(self.columns) - edges

    def _unbroken(self, column: Column) -> list[str]:
        """What must stay on one line: words, or whole cells."""
        texts = self._texts(column)
        return texts if column.no_wrap else [word for text in texts for word in text.split()]

    def _texts(self, column: Column) -> list[str]:
        return [str(column.header), *(str(cell) for cell in column._cells)]

    def lines(self) -> list[str]:
        """The title, the headings and one line a row, with columns as wide as they need."""
        texts = [self._texts(column) for column in self.columns]
        columns = []
        for column, cells in zip(self.columns, texts, strict=True):
            width = max(map(len_of, cells), default=0)
            columns.append([_padded(cell, width, column.justify == "right") for cell in cells])
        rows = ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]
        return [*_lines(self.title), *rows]


def len_of(text: str) -> int:
    """How many places of a terminal a text takes."""
    return Text(text).cell_len


def _padded(text: str, width: int, right: bool) -> str:
    room = " " * (width - len_of(text))
    return room + text if right else text + room


def _text(cell: Any, style: str = "") -> Text:
    return Text(escaped(cell), style=style) if isinstance(cell, str) else cell


def _lines(text: Any) -> list[str]:
    """The lines of a title or caption, escaped."""
    return [escaped(line) for line in str(text).split("\n")] if text else []
