"""A comparison as files: Markdown, CSV, LaTeX, and figures through matplotlib."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sparsify_fx.errors import SweepError, unknown
from sparsify_fx.figures import FORMATS as FIGURES
from sparsify_fx.figures import Look, check_look, legend, look, panels, save, styles_of
from sparsify_fx.sweeps.compare import Comparison, Table, Value
from sparsify_fx.tables.fitting import Grid
from sparsify_fx.train.files import write_text

TEXTS = ("md", "csv", "tex")
# Characters that LaTeX takes for commands, and what prints them.
_LATEX = {
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}


def check(formats: Sequence[str]) -> tuple[str, ...]:
    """The formats without repetition; UnknownNameError for another, AnalysisError where matplotlib is missing."""
    for name in formats:
        if name not in (*TEXTS, *FIGURES):
            raise unknown("format", name, (*TEXTS, *FIGURES))
    if any(name in FIGURES for name in formats):
        check_look(Look())
    return tuple(dict.fromkeys(formats))


def look_of(formats: Sequence[str], dpi: int = 200, size: str | None = None) -> Look:
    """What is asked of the figures; AnalysisError for another size."""
    return look([name for name in formats if name in FIGURES], dpi, size)


def write(
    comparison: Comparison,
    out: Path,
    formats: Sequence[str],
    wanted: Look | None = None,
) -> list[str]:
    """Write compare.md, compare.tex, {table}.csv and the figures into `out`; their paths.

    The same runs give the same bytes. Raises SweepError where the folder cannot be written.
    """
    texts: dict[str, str] = {}
    if "md" in formats:
        texts["compare.md"] = "\n".join(map(markdown, comparison.tables))
    if "tex" in formats:
        texts["compare.tex"] = "\n".join(map(latex, comparison.tables))
    if "csv" in formats:
        texts |= {f"{table.name}.csv": as_csv(table) for table in comparison.tables}
    wanted = wanted or look_of(formats)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_text(out / name, text)
        paths = [str(out / name) for name in texts]
        for stem, draw in _figures(comparison).items() if wanted.formats else ():
            paths += save(out / stem, draw, wanted)
    except OSError as error:
        raise SweepError(
            f"cannot write to {out}: {error.strerror or error}; choose another --out"
        ) from error
    return paths


def grid(table: Table) -> Grid:
    """For the console."""
    rows = tuple(tuple(text_of(value) for value in row) for row in table.rows)
    return Grid(table.title, table.columns, rows)


def markdown(table: Table) -> str:
    """A heading and a table, numbers with four digits."""
    lines = [
        f"## {table.title}",
        "",
        _row(table.columns),
        _row(["---"] * len(table.columns)),
    ]
    for row in table.rows:
        lines.append(_row([text_of(value).replace("|", r"\|") for value in row]))
    return "\n".join([*lines, ""])


def as_csv(table: Table) -> str:
    """Numbers in full; nothing where there is none."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(table.rows)
    return stream.getvalue()


def latex(table: Table) -> str:
    """A table environment without packages; text to the left, numbers to the right."""
    # By the first row: a column holds values of one kind.
    sides = "".join("l" if isinstance(v, str) else "r" for v in table.rows[0])
    lines = [r"\begin{table}", rf"\caption{{{_escaped(table.title)}}}"]
    lines += [rf"\begin{{tabular}}{{{sides}}}", r"\hline"]
    lines += [f"{' & '.join(map(_escaped, table.columns))} \\\\", r"\hline"]
    for row in table.rows:
        lines.append(f"{' & '.join(_escaped(text_of(v)) for v in row)} \\\\")
    return "\n".join([*lines, r"\hline", r"\end{tabular}", r"\end{table}", ""])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def text_of(value: Value) -> str:
    """A value in a table for people."""
    if value is None:
        return "–"
    # Values of the grid such as 0.9 stay short; means have as many digits as accuracies need.
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text.replace("–", "--"))


def _figures(comparison: Comparison) -> dict[str, Callable[[Any], None]]:
    """What draws the figures, by the stem of their files."""
    tables = {table.name: table for table in comparison.tables}
    axes = [axis for axis in comparison.records.axes if axis != "sparsity"]
    figures = {"accuracy": _drawing(tables["cells"], axes, "sparsity")}
    if "cycles" in tables:
        figures["cycles"] = _drawing(
            tables["cycles"], [*axes, "sparsity"], "sparsity then"
        )
    return figures


def _drawing(table: Table, axes: Sequence[str], x: str) -> Callable[[Any], None]:
    """Accuracy against the column `x`, with its interval; a line for all rows that agree on `axes`."""
    lines: dict[str, list[tuple[Any, ...]]] = {}
    at = {column: place for place, column in enumerate(table.columns)}
    for row in table.rows:
        label = " ".join(
            text_of(row[at[axis]]) for axis in axes if row[at[axis]] is not None
        )
        values = (row[at[x]], row[at["test accuracy"]], row[at["± 95 %"]] or 0.0)
        lines.setdefault(label, []).append(values)

    def draw(figure: Any) -> None:
        (plot,), styles = panels(figure), styles_of(lines)
        for label, points in lines.items():
            xs, means, halves = zip(*sorted(points), strict=True)
            style = {**styles[label], "capsize": 2}
            plot.errorbar(xs, means, halves, label=label, elinewidth=0.8, **style)
        plot.set(xlabel="sparsity", ylabel="test accuracy, mean and 95 % interval")
        plot.grid(alpha=0.3)
        legend(figure, plot)

    return draw
