"""`sparsify-fx reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from sparsify_fx.cli.options import Dpi, FigureSize, Formats, PluginOption
from sparsify_fx.cli.output import JsonOption, Output
from sparsify_fx.cli.sweep import launch
from sparsify_fx.plugins import load_files

if TYPE_CHECKING:
    from sparsify_fx.reproduce.figure import Figure

NAME = "reproduce"


def command(
    key: Annotated[
        str | None,
        typer.Argument(
            metavar="[KEY]", help="A paper; without one all figures are listed."
        ),
    ] = None,
    figure: Annotated[
        str | None,
        typer.Argument(
            metavar="[FIGURE]", help="fig3, table10, or a part of one: fig2-d."
        ),
    ] = None,
    scale: Annotated[
        Literal["tiny", "cpu", "full"],
        typer.Option(
            help="full: the paper's; cpu: digits, at most 3 hours of 2 cores; tiny: seconds."
        ),
    ] = "cpu",
    out: Annotated[
        Path, typer.Option(help="Where figures, numbers and the sweep's file go.")
    ] = Path("sparsify-reproduce"),
    runs: Annotated[
        Path, typer.Option(help="Where run folders and the sweep's record are.")
    ] = Path("runs"),
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A key of the recipe for all trials; several are possible.",
        ),
    ] = None,
    write_only: Annotated[
        bool,
        typer.Option("--write-only", help="Write the sweep's file, and train nothing."),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Trials at once on this machine.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Run on a Ray cluster, as in sweep."),
    ] = None,
    formats: Formats = None,
    dpi: Dpi = 200,
    size: FigureSize = None,
    plugin: PluginOption = None,
    json: JsonOption = None,
) -> None:
    """A figure or table of one of the four papers: trained or computed, with the paper's numbers beside ours.

    The same command goes on where it was stopped; the exit code is 1 when trials are missing. Without FIGURE those of
    the paper are listed.

    Examples:

        sparsify-fx reproduce

        sparsify-fx reproduce gadhikar2025 table3 --scale cpu

        sparsify-fx reproduce gadhikar2024 fig2 --scale full --write-only
    """
    from sparsify_fx.figures import check_look, look
    from sparsify_fx.reproduce.catalog import figures, find
    from sparsify_fx.reproduce.plans import write_sweep
    from sparsify_fx.reproduce.run import reproduced
    from sparsify_fx.sweeps.records import read_records

    output = Output(json)
    load_files(plugin)
    if key is None or figure is None:
        _list(output, figures(), key)
        return
    # Found before anything runs, the second part of a figure too.
    found = find(key, figure)
    wanted = check_look(look(formats or ("png",), dpi, size))
    results = []
    for one in found:
        records = None
        if one.kind == "sweep":
            path = write_sweep(one, scale, out, changes or ())
            if write_only:
                output.console.print(Text(str(path)), soft_wrap=True)
                continue
            _train(one, path, runs, workers, ray, plugin, output)
            records = read_records([path], runs)
        elif write_only:
            continue
        done = reproduced(one, scale, records=records, out=out, formats=wanted.formats)
        for grid in done.grids():
            output.console.print(grid.table())
        written = done.write(out, wanted)
        for line in (done.sentence, one.reason, ", ".join(written)):
            if line:
                output.console.print(Text(line), soft_wrap=True)
        results.append(done.to_dict())
    output.finish(results)
    if any(result["missing"] for result in results):
        raise typer.Exit(1)


def _train(
    one: Figure,
    path: Path,
    runs: Path,
    workers: int | None,
    ray: str | None,
    plugin: list[str] | None,
    output: Output,
) -> None:
    """Train the trials of a figure that are not finished; typer.Exit(1) where none is."""
    from sparsify_fx.reproduce.plans import check_data
    from sparsify_fx.sweeps.grid import trials_of
    from sparsify_fx.sweeps.plan import load_sweep

    plan = load_sweep(path)
    # Before the first trial: each of a hundred would fail by itself, and download by itself.
    check_data(one, trials_of(plan))
    entries = launch(plan, path, runs, workers, ray, plugin, output)
    # What is missing is told with the numbers of those that are there.
    if not any(entry.compared and entry.state == "finished" for entry in entries):
        raise typer.Exit(1)


def _list(output: Output, every: tuple[Figure, ...], key: str | None) -> None:
    """Those of one paper, or all, a line each."""
    from sparsify_fx.errors import unknown
    from sparsify_fx.reproduce.catalog import PAPERS

    if key is not None and key not in PAPERS:
        raise unknown("paper", key, PAPERS)
    shown = [one for one in every if key in (None, one.key)]
    table = Table("paper", "figure", "made by", "what", show_lines=False)
    for one in shown:
        table.add_row(*map(Text, (one.key, one.name, one.kind, one.title)))
    output.console.print(table)
    fields = ("key", "name", "kind", "title", "shows", "reason", "command")
    output.finish([{name: getattr(one, name) for name in fields} for one in shown])
