"""The page: a template of Jinja with everything in it, figures as SVG."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from importlib.resources import files
from typing import Any

import yaml
from jinja2 import Environment

from sparsify_fx import __version__
from sparsify_fx.figures import Look
from sparsify_fx.figures.saving import inline_svg
from sparsify_fx.report.details import Details
from sparsify_fx.report.facts import Facts, RunFacts
from sparsify_fx.report.figures import (
    MANY,
    draw_curves,
    draw_density,
    draw_signs,
    shown_curves,
)
from sparsify_fx.report.sizes import Sizes
from sparsify_fx.sweeps.compare import compare
from sparsify_fx.sweeps.formats import text_of
from sparsify_fx.sweeps.records import read_records

_COLUMNS = ("part", "run", "epoch", "step", "event", "detail")


def page(
    facts: Facts, details: Mapping[str, Details], sizes: Mapping[str, Sizes]
) -> str:
    """The HTML of a report; the same facts give the same text."""
    # Every value is escaped: names of layers and notes come out of files of strangers.
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": _number, "bytes": _bytes, "percent": _percent}
    template = environment.from_string(_read("page.html"))
    begun = [run for run in facts.runs if run.metrics]
    text: str = template.render(
        facts=facts,
        details=details,
        sizes=sizes,
        style=_read("page.css"),
        version=__version__,
        axes=_axes(facts),
        curves=_drawn(partial(draw_curves, begun), bool(shown_curves(begun))),
        density=_drawn(partial(draw_density, begun), bool(begun), 7.0),
        signs=_signs(details),
        tables=_tables(facts),
        many=len(facts.runs) > MANY,
        columns=_COLUMNS,
        yaml=lambda content: yaml.safe_dump(content, sort_keys=False),
    )
    return text


def _read(name: str) -> str:
    return (files("sparsify_fx.report") / name).read_text(encoding="utf-8")


def _drawn(
    draw: Callable[[Any], None], wanted: bool, height: float | None = None
) -> str:
    """A figure as text; nothing where there is nothing to draw."""
    # As wide as the page's text: names are as large there as the text beside them.
    return inline_svg(draw, Look(("svg",), width=17.8, height=height)) if wanted else ""


def _signs(details: Mapping[str, Details]) -> str:
    kept = {label: one for label, one in details.items() if len(one.signs) > 2}
    return _drawn(partial(draw_signs, kept), bool(kept), 7.0)


def _axes(facts: Facts) -> list[str]:
    """The keys of the configuration in which the runs differ, and which fit into a cell."""
    keys: dict[str, None] = {}
    for run in facts.runs:
        keys |= dict.fromkeys(run.config)
    differing = []
    for key in keys:
        # The table has columns for these.
        if key in ("method", "sparsity", "data_root"):
            continue
        values = {json.dumps(run.config.get(key), default=str) for run in facts.runs}
        if len(values) > 1 and max(map(len, values)) <= 40:
            differing.append(key)
    return differing


def _tables(facts: Facts) -> list[Any]:
    """Means over seeds and differences, where runs repeat; rows as text."""
    finished: list[RunFacts] = [run for run in facts.runs if run.result is not None]
    if len(finished) < 3:
        return []
    found = compare(read_records([run.path for run in finished]))
    # Without a second seed there is no mean to tell: the table of runs says it all.
    n = found.tables[0].columns.index("n")
    if all(row[n] == 1 for row in found.tables[0].rows):
        return []
    return [
        (table.title, table.columns, [list(map(text_of, row)) for row in table.rows])
        for table in found.tables
    ]


def _number(value: Any) -> str:
    """With four digits; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _bytes(value: int | None) -> str:
    """In units of a thousand, as disks count."""
    if value is None:
        return "–"
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value} bytes"
