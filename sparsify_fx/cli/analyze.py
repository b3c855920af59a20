"""`sparsify-fx analyze`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from sparsify_fx.cli.options import Dpi, FigureSize, Formats, PluginOption
from sparsify_fx.cli.output import JsonOption, Output
from sparsify_fx.plugins import load_files

NAME = "analyze"


def command(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN]...", help="Run folders; without one the analyses are listed."
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", metavar="NAME", help="This analysis; give it again for several."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where figures and numbers go.")] = Path(
        "sparsify-analysis"
    ),
    formats: Formats = None,
    dpi: Dpi = 200,
    size: FigureSize = None,
    samples: Annotated[
        int, typer.Option(min=2, help="Training images for what is computed on data.")
    ] = 1000,
    iterations: Annotated[
        int, typer.Option(min=1, help="Most Lanczos steps for an eigenvalue.")
    ] = 50,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Relative residual of an eigenvalue.")
    ] = 1e-2,
    probes: Annotated[
        int, typer.Option(min=2, help="Random vectors for a trace.")
    ] = 20,
    points: Annotated[
        int, typer.Option(min=3, help="Networks on the line between two runs.")
    ] = 11,
    seed: Annotated[
        int, typer.Option(min=0, help="Of images, start vectors and probes.")
    ] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "cpu",
    plugin: PluginOption = None,
    json: JsonOption = None,
) -> None:
    """Analyze runs: sign flips, masks, batch norm, Hessian, connectivity, dead channels, gradients.

    Every analysis that the runs allow is carried out; without a run they are listed.

    Examples:

        sparsify-fx analyze runs/lrr-0123456789

        sparsify-fx analyze runs/lrr-* runs/imp-* --only overlap --only sign-cycles --format pdf --size 8.5
    """
    # Imported on use, as in every command: no other one should wait for what this one needs.
    from sparsify_fx.analysis.analyze import Analyzed, analyze, find_analyses
    from sparsify_fx.analysis.base import Options

    output = Output(json)
    # Before the listing, which names analyses out of plugins too.
    load_files(plugin)
    if not runs:
        listed = find_analyses(only or ())
        table = Table("name", "analysis", show_lines=True)
        for entry in listed:
            # Texts, not strings: rich would take brackets, as around a paper's key, for markup where they look like it.
            table.add_row(
                Text(entry.name),
                Text.assemble(f"{entry.summary}\n", (entry.source, "cyan")),
            )
        output.console.print(table)
        output.finish(
            [{"name": e.name, "summary": e.summary, "source": e.source} for e in listed]
        )
        return
    options = Options(samples, seed, iterations, tolerance, probes, points)
    done: Analyzed = analyze(
        runs,
        out,
        only=only or (),
        formats=formats or ("png",),
        dpi=dpi,
        size=size,
        options=options,
        device=device,
        show=lambda line: output.console.print(Text(line, style="dim")),
    )
    # What was left out, and why, is a result too: some analyses need several runs, or data that are gone.
    for result in done.results.values():
        for grid in result.findings.grids:
            output.console.print(grid.table())
        left_out = [
            f"left out: {label}: {lack}" for label, lack in result.left_out.items()
        ]
        for line in (
            *result.findings.notes,
            *left_out,
            f"{', '.join(result.figures)}; {result.seconds:.0f} s",
        ):
            output.console.print(Text(line))
    for name, reason in done.skipped.items():
        output.console.print(Text(f"skipped {name}: {reason}", style="yellow"))
    output.finish(done.to_dict())
