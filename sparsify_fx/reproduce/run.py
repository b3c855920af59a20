"""One figure put together: ours and the paper's numbers, verdicts, a sentence, and the files of all that."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparsify_fx.errors import LabError
from sparsify_fx.figures import Look, save
from sparsify_fx.lab import run_experiment
from sparsify_fx.lab.run import LabResult
from sparsify_fx.reproduce.agreement import Agreement, Verdict, agreement
from sparsify_fx.reproduce.catalog import PAPERS
from sparsify_fx.reproduce.drawing import drawn
from sparsify_fx.reproduce.figure import Figure, Point, Scale
from sparsify_fx.reproduce.measures import measured
from sparsify_fx.reproduce.plans import LABELS
from sparsify_fx.reproduce.settings import compared
from sparsify_fx.sweeps.records import Records
from sparsify_fx.tables.fitting import Grid
from sparsify_fx.train.files import write_text

_COLUMNS = ("panel", "series", "x", "y", "± 95 %", "n", "whose")


@dataclass(frozen=True)
class Reproduced:
    """A figure at a scale: the points of both sides, what agrees, and a sentence on it.

    Attributes:
        missing: trials without a result.
        files: those that were written before this, by the laboratory.
    """

    figure: Figure
    scale: Scale
    ours: tuple[Point, ...]
    agreement: Agreement
    sentence: str
    missing: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    @property
    def stem(self) -> str:
        """Of its files."""
        return f"{self.figure.key}-{self.figure.name}-{self.scale}"

    def grids(self) -> tuple[Grid, ...]:
        """Numbers of both sides, and the verdicts."""
        found = []
        if rows := self._rows():
            columns = ("panel", "series", self.figure.x, "ours", "± 95 %", "the paper")
            found.append(Grid(self._title(), columns, tuple(rows)))
        if self.agreement.verdicts:
            verdicts = [
                (v.claim, v.measured, {True: "yes", False: "NO", None: "–"}[v.holds])
                for v in self.agreement.verdicts
            ]
            told = f"{self._title()}: what the paper says"
            found.append(Grid(told, ("claim", "measured", "holds"), tuple(verdicts)))
        return tuple(found)

    def _title(self) -> str:
        return f"{PAPERS[self.figure.key]}, {self.figure.told}, {self.scale}"

    def _rows(self) -> list[tuple[str, ...]]:
        """A row for each point: ours with the paper's beside it where both have one, then what only the paper has."""
        theirs = {(p.panel, p.series, p.x): p for p in self.figure.points()}
        rows: list[tuple[str, ...]] = []
        for point in self.ours:
            other = theirs.pop((point.panel, point.series, point.x), None)
            half = "–" if point.half is None else f"{point.half:.3g}"
            rows.append(
                (
                    point.panel,
                    point.series,
                    str(point.x),
                    f"{point.y:.4g}",
                    half,
                    _printed(other),
                )
            )
        rows += [
            (p.panel, p.series, str(p.x), "–", "–", _printed(p))
            for p in theirs.values()
        ]
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-ready."""
        return {
            "key": self.figure.key,
            "figure": self.figure.name,
            "title": self.figure.title,
            "scale": self.scale,
            "label": LABELS[self.scale],
            "reason": self.figure.reason,
            "sentence": self.sentence,
            "agreement": asdict(self.agreement),
            "ours": [asdict(point) for point in self.ours],
            "paper": [asdict(point) for point in self.figure.points()],
            "missing": list(self.missing),
        }

    def write(self, out: Path, look: Look) -> list[str]:
        """{stem}.csv, .json, .md and the figure into `out`; their paths. LabError where it cannot be written."""
        texts = {
            f"{self.stem}.csv": self._csv(),
            f"{self.stem}.json": json.dumps(self.to_dict(), indent=2) + "\n",
            f"{self.stem}.md": self._markdown(),
        }
        try:
            out.mkdir(parents=True, exist_ok=True)
            for name, text in texts.items():
                write_text(out / name, text)
            paths = [str(out / name) for name in texts]
            # Settings and drawings have no numbers that could be drawn.
            if self.ours:
                draw = drawn(self.figure, self.ours, self.figure.points())
                paths += save(out / self.stem, draw, look)
        except OSError as error:
            raise LabError(
                f"cannot write to {out}: {error.strerror or error}; choose another --out"
            ) from error
        return [*paths, *self.files]

    def _csv(self) -> str:
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for whose, points in (("ours", self.ours), ("paper", self.figure.points())):
            for p in points:
                half = "" if p.half is None else p.half
                writer.writerow((p.panel, p.series, p.x, p.y, half, p.n or "", whose))
        return stream.getvalue()

    def _markdown(self) -> str:
        lines = [f"# {self._title()}: {self.figure.title}", "", self.sentence, ""]
        if self.figure.reason:
            lines += [f"Other than in the paper: {self.figure.reason}", ""]
        for grid in self.grids():
            lines += [f"## {grid.title}", "", _row(grid.columns)]
            lines.append(_row(["---"] * len(grid.columns)))
            lines += [*map(_row, grid.rows), ""]
        return "\n".join(lines)


def _row(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def _printed(point: Point | None) -> str:
    """As the paper prints it: 88.25 ± 0.35."""
    if point is None:
        return ""
    return f"{point.y:g}" + ("" if point.half is None else f" ± {point.half:g}")


def reproduced(
    figure: Figure,
    scale: Scale,
    *,
    records: Records | None = None,
    out: Path = Path("sparsify-reproduce"),
    formats: Sequence[str] = ("png",),
    run: Callable[..., LabResult] = run_experiment,
) -> Reproduced:
    """A figure out of the finished runs of its sweep, or of the laboratory, which is run here.

    Args:
        figure: see `find`.
        scale: full, cpu or tiny; the laboratory has a default size for the latter two.
        records: of a sweep, see `sparsify_fx.sweeps.records.read_records`.
        out: where the laboratory writes its figures.
        formats: of these.
        run: what runs an experiment: a caller with several figures of one experiment may remember its result.

    Raises what `run_experiment` raises.
    """
    if figure.kind == "sweep" and records is not None:
        # A reduction has one panel without a name: under the paper's, digits would pass for its data.
        shown = figure if scale == "full" else figure.model_copy(update={"panels": {}})
        ours = tuple(measured(records, shown))
        agreed = agreement(figure, ours, scale)
        told = agreed.sentence(f"scale {scale} ({LABELS[scale]})")
        if records.missing:
            told += f" {len(records.missing)} trials are missing."
        return Reproduced(figure, scale, ours, agreed, told, records.missing)
    if figure.kind == "lab":
        return _of_lab(figure, scale, out, formats, run)
    verdicts = compared(figure) if figure.kind == "settings" else ()
    agreed = Agreement(verdicts, (0, 0), ())
    held = sum(bool(v.holds) for v in verdicts)
    told = (
        f"{held} of {len(verdicts)} values of the table are those of our recipes."
        if verdicts
        else f"Nothing to run: {figure.reason}"
    )
    return Reproduced(figure, scale, (), agreed, told)


def _of_lab(
    figure: Figure,
    scale: Scale,
    out: Path,
    formats: Sequence[str],
    run: Callable[..., LabResult],
) -> Reproduced:
    """The experiments of the laboratory, and of their table the numbers that the paper has too."""
    full = scale == "full"
    results = [run(name, out, full=full, formats=tuple(formats)) for name in figure.lab]
    points: list[Point] = []
    verdicts: list[Verdict] = []
    files: list[str] = []
    for result in results:
        points += _of_grids(figure, result)
        verdicts += [
            Verdict(check.claim, check.measured, check.holds)
            for check in result.findings.checks
        ]
        files += result.figures
    numbers = agreement(figure, points, scale)
    agreed = Agreement(tuple(verdicts), numbers.orders, numbers.differences)
    size = "the paper's size" if full else "the laboratory's default size"
    return Reproduced(
        figure, scale, tuple(points), agreed, agreed.sentence(size), files=tuple(files)
    )


def _of_grids(figure: Figure, result: LabResult) -> list[Point]:
    """Of the table that the figure names: a series for each row, a point for each column with a number."""
    found = []
    for grid in result.findings.grids:
        if figure.grid and grid.title.startswith(figure.grid):
            for series, *values in grid.rows:
                for x, y in zip(grid.columns[1:], values, strict=True):
                    if isinstance(y, (int, float)):
                        found.append(Point("", str(series), x, float(y)))
    return found
