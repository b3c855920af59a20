"""`sparsify-fx train`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from sparsify_fx.cli.launching import launch
from sparsify_fx.cli.options import PluginOption
from sparsify_fx.cli.output import JsonOption, Output
from sparsify_fx.plugins import load_files

NAME = "train"


def command(
    context: typer.Context,
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE", help="A built-in recipe, or the path of a YAML file."
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(help="mnist5k, cifar10, cifar100, imagefolder:PATH or npz:PATH."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="A method or a sum of methods, such as lrr+signin."),
    ] = None,
    sparsity: Annotated[
        float | None,
        typer.Option(help="The share of weights that end as zeros, in [0, 1)."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="The length of one run (cycle).")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Of weights, masks, order of the data and augmentation."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda, cuda:1, ...")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(help="auto, full, or living: only the weights that are kept."),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any key of the recipe."),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Where run folders are.")] = Path("runs"),
    nproc: Annotated[
        int, typer.Option(min=1, help="Train in so many processes, as torchrun does.")
    ] = 1,
    force: Annotated[
        bool, typer.Option("--force", help="Start afresh, even over a finished run.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show nothing but errors.")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option(help="Write TensorBoard scalars where it is installed.")
    ] = True,
    grace: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0.001,
            help="SIGTERM, SIGUSR1 or Ctrl-C: save and leave within this time.",
        ),
        # A little less than the 30 s after which SLURM and Kubernetes kill what they asked to end.
    ] = 25.0,
    plugin: PluginOption = None,
    json: JsonOption = None,
) -> None:
    """Train a recipe in its run folder.

    A finished run is not repeated; an interrupted one goes on from its last checkpoint. SIGTERM and SIGUSR1 let it
    save after the step that it is at, and leave with exit code 75 within the grace time; so does Ctrl-C, with 130. The
    axes of a recipe are for its own method: with another `--method` only those that are given with `--set` apply.

    Examples:

        sparsify-fx train mnist5k-lenet5 --method lrr --sparsity 0.9

        sparsify-fx train cifar10-resnet20 --method lrr+signin --set optimizer.lr=0.1

        sparsify-fx train mnist5k-lenet5 --set axes.allocation=erk --method random

        sparsify-fx train cifar10-resnet20 --nproc 2

        torchrun --nproc-per-node 8 -m sparsify_fx train imagenet-resnet50-lrr
    """
    from sparsify_fx.distributed.joining import joined, launched_rank
    from sparsify_fx.errors import PreemptedError
    from sparsify_fx.train import load_config, train
    from sparsify_fx.train.signals import LEFT

    # All processes train; the first one shows and writes.
    quiet = quiet or launched_rank() > 0
    output = Output(json if launched_rank() == 0 else None)
    output.console.quiet = launched_rank() > 0
    load_files(plugin)
    # By the names of the configuration's keys; what is None was not given and leaves the recipe's own value.
    values = {
        "data": data,
        "method": method,
        "sparsity": sparsity,
        "epochs": epochs,
        "seed": seed,
        "device": device,
        "storage": storage,
    }
    try:
        with _only_errors() if quiet else nullcontext():
            # Within the quiet, too: reading a recipe may warn of axes that do not apply.
            config = load_config(recipe, sets or [], values)
            if nproc > 1:
                launch(nproc, context)
                return
            with joined(config.device):
                result = train(
                    config,
                    runs_dir=runs,
                    force=force,
                    progress=not quiet,
                    console=output.console,
                    tensorboard=tensorboard,
                    grace=grace,
                )
    except PreemptedError as error:
        output.console.print(str(error), soft_wrap=True)
        raise typer.Exit(LEFT) from None
    except KeyboardInterrupt:
        # No error: every step that is done is in the folder. 130 is 128 + SIGINT, as shells have it.
        output.console.print(
            "interrupted; the same command goes on from the last checkpoint"
        )
        raise typer.Exit(130) from None
    if not quiet:
        output.console.print(result.table())
    output.finish(result.to_dict())


@contextmanager
def _only_errors() -> Iterator[None]:
    """Log lines below an error are not shown."""
    # The level of the package's logger, which is put back: the process may be a notebook with settings of its own.
    logger = logging.getLogger("sparsify_fx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
