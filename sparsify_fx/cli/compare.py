"""`sparsify-fx compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from sparsify_fx.cli.options import Dpi, FigureSize
from sparsify_fx.cli.output import JsonOption, Output

NAME = "compare"


def command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="SWEEP.yaml|RUN...",
            help="A sweep's file or record, or run folders.",
        ),
    ],
    runs: Annotated[
        Path, typer.Option(help="Where the sweep's record and run folders are.")
    ] = Path("runs"),
    out: Annotated[Path, typer.Option(help="Where tables and figures go.")] = Path(
        "sparsify-compare"
    ),
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="md, csv, tex, svg, png or pdf; several are possible.",
        ),
    ] = None,
    dpi: Dpi = 200,
    size: FigureSize = None,
    json: JsonOption = None,
) -> None:
    """Compare finished runs: means over seeds with 95 % intervals, differences on equal seeds, accuracy per cycle.

    Without `--format` Markdown, CSV, LaTeX and SVG are written.

    Examples:

        sparsify-fx compare signs.yaml

        sparsify-fx compare runs/lrr-* runs/imp-* --format png
    """
    from sparsify_fx.sweeps.compare import compare
    from sparsify_fx.sweeps.formats import check, grid, look_of, write
    from sparsify_fx.sweeps.records import read_records

    output = Output(json)
    kinds = check(formats or ("md", "csv", "tex", "svg"))
    wanted = look_of(kinds, dpi, size)
    found = compare(read_records(paths, runs))
    for table in found.tables:
        output.console.print(grid(table).table())
    # A table without a run could pass for one that has them all.
    for line in found.records.missing:
        output.console.print(Text(f"missing: {line}", "yellow"), soft_wrap=True)
    output.console.print(
        Text(", ".join(write(found, out, kinds, wanted))), soft_wrap=True
    )
    output.finish(found.to_dict())
