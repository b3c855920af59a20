"""What the catalog knows of one figure or table, and a point of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from sparsify_fx.train.sections import Section

Scale = Literal["tiny", "cpu", "full"]
SCALES: tuple[Scale, ...] = ("tiny", "cpu", "full")
X = str | float


@dataclass(frozen=True)
class Point:
    """One number: y of `series` at x in `panel`; half of its 95 % interval, None for one seed; n seeds, 0: a paper."""

    panel: str
    series: str
    x: X
    y: float
    half: float | None = None
    n: int = 0


class Claim(Section):
    """The paper says that `more` lies above `than` (`least`: from this x on; `panel`: in panels that begin so)."""

    more: str
    than: str
    least: float = -1.0
    panel: str = ""


class Row(Section):
    """A row of a table of settings: as printed, by column; `means`: what the recipe has for it, where that differs."""

    name: str
    key: str
    paper: tuple[Any, ...]
    means: tuple[Any, ...] = ()

    @property
    def expected(self) -> tuple[Any, ...]:
        """What the recipe should hold, by column."""
        return self.means or self.paper


class Figure(Section):
    """One figure or table of a paper, or a part of it that is made by a sweep of its own.

    Attributes:
        key, name: as `sparsify-fx reproduce KEY FIGURE` takes them; from the file's place.
        title: the paper's caption, shortened; shows: what is to be seen there.
        kind: sweep (trained), lab (an experiment of the laboratory), settings (hyperparameters, compared with recipes),
            drawing (without numbers).
        reason: what is other than in the paper, or why there is nothing to run.
        numbers: where the paper's numbers come from; figures are known by their captions and text alone.
        lab: experiments; grid: the title of the table there that the paper's numbers belong to.
        measure: how numbers come out of runs, see `measures.py`; first_minus_second: whether their difference is shown.
        form: how they are drawn; x, y: what the axes say.
        sweep: as in a sweep's file; full, cpu, tiny: what stands above it at this scale.
        panels: the paper's name of a panel by recipe.
        paper: the paper's numbers by panel, series and x: 88.25 or [88.25, 0.35].
        claims: orders that the paper states.
        recipes, rows: of settings: a recipe for each column.
    """

    key: str
    name: str
    title: str
    shows: str
    kind: Literal["sweep", "lab", "settings", "drawing"]
    reason: str = ""
    numbers: str = ""
    lab: tuple[str, ...] = ()
    grid: str = ""
    measure: str = "accuracy"
    first_minus_second: bool = False
    form: Literal["lines", "bars", "layers"] = "lines"
    x: str = "sparsity"
    y: str = "test accuracy, %"
    sweep: dict[str, Any] = Field(default_factory=dict)
    full: dict[str, Any] = Field(default_factory=dict)
    cpu: dict[str, Any] = Field(default_factory=dict)
    tiny: dict[str, Any] = Field(default_factory=dict)
    panels: dict[str, str] = Field(default_factory=dict)
    paper: dict[str, dict[str, dict[X, Any]]] = Field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    recipes: dict[str, str] = Field(default_factory=dict)
    rows: tuple[Row, ...] = ()

    @field_validator("name")
    @classmethod
    def _numbered(cls, value: str) -> str:
        if not re.fullmatch(r"(fig|table)\d+(-[a-z0-9]+)?", value):
            raise ValueError(f"{value}: expected fig3, table10 or fig2-bc")
        return value

    @model_validator(mode="after")
    def _complete(self) -> Figure:
        # A figure that cannot be made says why: none is silently absent.
        wanted = {"sweep": self.sweep, "lab": self.lab, "settings": self.rows}
        if not wanted.get(self.kind, self.reason):
            raise ValueError(f"a {self.kind} without its section, or without a reason")
        return self

    @property
    def number(self) -> str:
        """Of the paper, without the part: fig2 for fig2-bc."""
        return self.name.partition("-")[0]

    @property
    def told(self) -> str:
        """As people write it: Fig. 2 bc, Table 3 cifar."""
        number, _, part = self.name.partition("-")
        for short, long in (("fig", "Fig. "), ("table", "Table ")):
            number = number.replace(short, long)
        return f"{number} {part}".strip()

    @property
    def command(self) -> str:
        """What makes it."""
        return f"sparsify-fx reproduce {self.key} {self.name}"

    def points(self) -> list[Point]:
        """The paper's numbers."""
        found = []
        for panel, by_series in self.paper.items():
            for series, by_x in by_series.items():
                found += [_point(panel, series, x, y) for x, y in by_x.items()]
        return found


def _point(panel: str, series: str, x: X, number: Any) -> Point:
    y, half = number if isinstance(number, (list, tuple)) else (number, None)
    return Point(panel, series, x, float(y), None if half is None else float(half))
