"""`sparsify-fx report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from sparsify_fx.cli.options import PluginOption
from sparsify_fx.cli.output import JsonOption, Output
from sparsify_fx.plugins import load_files

NAME = "report"


def command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...|SWEEP.yaml",
            help="Run folders, finished or not, or a sweep's file or record.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("report.html"),
    runs: Annotated[
        Path, typer.Option(help="Where a sweep's record and run folders are.")
    ] = Path("runs"),
    details: Annotated[
        bool | None,
        typer.Option(
            "--details/--brief",
            help="Events, layers and signs of each run; of up to 12 runs if left out.",
        ),
    ] = None,
    sizes: Annotated[
        bool | None,
        typer.Option(
            "--sizes/--no-sizes",
            help="Export and time each model; of up to 4 runs if left out.",
        ),
    ] = None,
    notebook: Annotated[
        bool, typer.Option("--notebook", help="Also write OUT.ipynb, to go on from.")
    ] = False,
    plugin: PluginOption = None,
    json: JsonOption = None,
) -> None:
    """Write one HTML file about runs: curves, density, events, layers, signs, sizes and speeds; it needs no other file.

    Examples:

        sparsify-fx report runs/lrr-0123456789

        sparsify-fx report runs/lrr-* runs/signin-* --out compared.html --notebook

        sparsify-fx report signs.yaml --brief
    """
    from sparsify_fx.report import report
    from sparsify_fx.tables.fitting import escaped

    output = Output(json)
    load_files(plugin)
    done = report(
        paths,
        out,
        runs=runs,
        details=details,
        sizes=sizes,
        notebook_too=notebook,
        show=lambda line: output.console.print(Text(escaped(line), style="dim")),
    )
    for line in done.facts.missing:
        output.console.print(Text(escaped(f"missing: {line}"), "yellow"))
    written = ", ".join(filter(None, (done.page, done.notebook)))
    output.console.print(Text(escaped(written)), soft_wrap=True)
    output.finish(done.to_dict())
