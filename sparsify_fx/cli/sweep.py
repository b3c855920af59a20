"""`sparsify-fx sweep`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from sparsify_fx.cli.options import PluginOption
from sparsify_fx.cli.output import JsonOption, Output
from sparsify_fx.plugins import load_files

if TYPE_CHECKING:
    from sparsify_fx.sweeps.ledger import Entry
    from sparsify_fx.sweeps.plan import SweepConfig

NAME = "sweep"


def command(
    sweep: Annotated[
        Path,
        typer.Argument(
            metavar="SWEEP.yaml",
            help="Recipe, methods, sparsities, seeds, any other key.",
        ),
    ],
    runs: Annotated[
        Path, typer.Option(help="Where run folders and the sweep's record are.")
    ] = Path("runs"),
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Trials at once on this machine; by cores or GPUs if not given."
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Run on a Ray cluster: HOST:PORT, auto, or local for one that is started here.",
        ),
    ] = None,
    plugin: PluginOption = None,
    json: JsonOption = None,
) -> None:
    """Train every combination of a sweep's values, several at once.

    Finished trials are not repeated, interrupted ones go on, failed ones are tried again and reported; the exit code is
    1 when some failed for good.

    Examples:

        sparsify-fx sweep signs.yaml

        sparsify-fx sweep signs.yaml --ray auto
    """
    from sparsify_fx.sweeps.plan import load_sweep

    output = Output(json)
    load_files(plugin)
    if workers is not None and ray is not None:
        raise typer.BadParameter("a cluster has its own number", param_hint="--workers")
    entries = launch(load_sweep(sweep), sweep, runs, workers, ray, plugin, output)
    told = f"compare with: sparsify-fx compare {sweep} --runs {runs}"
    output.console.print(Text(told), soft_wrap=True)
    output.finish([asdict(entry) for entry in entries])
    if any(entry.state == "failed" for entry in entries):
        raise typer.Exit(1)


def launch(
    plan: SweepConfig,
    sweep: Path,
    runs: Path,
    workers: int | None,
    ray: str | None,
    plugin: list[str] | None,
    output: Output,
) -> list[Entry]:
    """Train a sweep's trials and tell of them; the record of each. typer.Exit(130) when interrupted."""
    from sparsify_fx.sweeps.driver import Sweep, each_line_once, run_sweep
    from sparsify_fx.sweeps.first_cycle import leaders_of
    from sparsify_fx.sweeps.grid import trials_of
    from sparsify_fx.sweeps.ledger import ledger_path, only_one
    from sparsify_fx.sweeps.live import shown, sweep_table

    files = tuple(str(Path(file).expanduser().resolve()) for file in plugin or ())
    with each_line_once(), only_one(path := ledger_path(runs, sweep)):
        trials = trials_of(plan)
        state = Sweep(
            trials,
            path,
            leaders_of(trials) if plan.share else {},
            plan.trial.retries,
            plan.trial.cpus,
            plugins=files,
        )
        try:
            with _engine(plan.trial, workers, ray) as engine:
                told = f"{len(state.trials)} trials, {engine.workers} at once"
                output.console.print(told)
                with shown(output.console) as watch:
                    run_sweep(state, engine, watch)
        except KeyboardInterrupt:
            # 130 is 128 + SIGINT, as shells have it.
            output.console.print("interrupted; the same command goes on")
            raise typer.Exit(130) from None
    if not output.console.is_terminal:
        output.console.print(sweep_table(state))
    entries = list(state.entries.values())
    for entry in entries:
        if entry.state == "failed":
            line = (
                f"failed after {entry.attempts} attempts: {entry.name}: {entry.error}"
            )
            output.console.print(Text(line, "red"), soft_wrap=True)
    return entries


def _engine(trial: Any, workers: int | None, ray: str | None) -> Any:
    """Where the trials run."""
    # Imported on use: ray is an extra.
    if ray is not None:
        from sparsify_fx.sweeps.on_ray import RayEngine

        return RayEngine(trial, ray)
    from sparsify_fx.sweeps.local import LocalEngine

    return LocalEngine(trial, workers)
