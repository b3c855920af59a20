"""`sparsify-fx lab`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from sparsify_fx.cli.options import Dpi, FigureSize, Formats, PluginOption
from sparsify_fx.cli.output import JsonOption, Output
from sparsify_fx.plugins import load_files

NAME = "lab"


def command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="An experiment; without one they are listed."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where figures and numbers go.")] = Path(
        "sparsify-lab"
    ),
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="The paper's exact size, instead of minutes on two cores."
        ),
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, help="Of data, initial values and noise.")
    ] = 0,
    formats: Formats = None,
    dpi: Dpi = 200,
    size: FigureSize = None,
    plugin: PluginOption = None,
    json: JsonOption = None,
) -> None:
    """Repeat a small experiment of a paper: figure, table and whether the claim holds here; without NAME, list them.

    Examples:

        sparsify-fx lab

        sparsify-fx lab neuron-signin --out lab --json -

        sparsify-fx lab sample-complexity --format pdf --size 17.8
    """
    from sparsify_fx.lab import all_experiments, run_experiment

    output = Output(json)
    # Before the listing, which names experiments out of plugins too.
    load_files(plugin)
    if name is None:
        table = Table("name", "experiment", show_lines=True)
        for entry in all_experiments():
            # Texts, not strings: rich would take brackets, as around a paper's key, for markup where they look like it.
            table.add_row(
                Text(entry.name),
                Text.assemble(f"{entry.claim}\n", (entry.paper, "cyan")),
            )
        output.console.print(table)
        output.finish(
            [
                {"name": e.name, "paper": e.paper, "claim": e.claim}
                for e in all_experiments()
            ]
        )
        return
    result = run_experiment(
        name,
        out,
        full=full,
        seed=seed,
        formats=formats or ("png",),
        dpi=dpi,
        size=size,
    )
    for grid in result.findings.grids:
        output.console.print(grid.table())
    title = Text(result.experiment.paper, style="table.title")
    checks = Table("claim", "measured", "holds", title=title)
    for check in result.findings.checks:
        checks.add_row(
            Text(check.claim),
            Text(check.measured),
            # A claim that does not hold here is a finding, not an error: the exit code stays 0.
            Text("yes", "green") if check.holds else Text("NO", "red"),
        )
    output.console.print(checks)
    for note in result.findings.notes:
        output.console.print(Text(note))
    output.console.print(Text(f"{', '.join(result.figures)}; {result.seconds:.0f} s"))
    output.finish(result.to_dict())
