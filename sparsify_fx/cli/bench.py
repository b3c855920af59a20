"""`sparsify-fx bench`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from sparsify_fx.cli.options import PluginOption
from sparsify_fx.cli.output import JsonOption, Output
from sparsify_fx.plugins import load_files

NAME = "bench"


def command(
    work: Annotated[
        str,
        typer.Argument(
            help="mlp (1024-2048-2048-10), or a model of the zoo, torchvision or timm."
        ),
    ] = "mlp",
    method: Annotated[
        str, typer.Option(help="A method, or a sum such as lrr+signin.")
    ] = "signin",
    sparsity: Annotated[float, typer.Option(help="The fraction of zeros.")] = 0.9,
    storage: Annotated[
        list[str] | None,
        typer.Option(
            help="full, living or auto; may be repeated. Default: full and living."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(help="Rows of a batch, at least 2.")] = 64,
    image_size: Annotated[
        int | None,
        typer.Option(min=1, help="Pixels a side. Default: the zoo's 32, others' 224."),
    ] = None,
    optimizer: Annotated[
        str, typer.Option(help="sgd-momentum or adamw.")
    ] = "sgd-momentum",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Through torch.compile.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Timed steps of each.")] = 21,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, data and masks.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    plugin: PluginOption = None,
    json: JsonOption = None,
) -> None:
    """Measure what sparse training costs beside dense training: steps, prune events, compiling, memory.

    Steps are timed in interleaved rounds by processor time, and dense is there twice, so that noise shows. Weights and
    data are random; nothing is downloaded.

    Examples:

        sparsify-fx bench mlp --optimizer adamw

        sparsify-fx bench resnet18 --image-size 64 --batch 16 --method lrr+signin --compile --json cost.json
    """
    from sparsify_fx.training_cost import bench

    output = Output(json)
    load_files(plugin)
    cost = bench(
        work,
        method=method,
        sparsity=sparsity,
        storage=storage or ("full", "living"),
        batch=batch,
        optimizer=optimizer,
        compile=compiled,
        rounds=rounds,
        seed=seed,
        device=device,
        image_size=image_size,
        threads=threads,
    )
    for grid in cost.grids():
        output.console.print(grid.table())
    where = cost.surroundings
    line = f"{where['processor']}, {where['instructions']}, torch {where['versions']['torch']}"
    output.console.print(Text(line, style="dim"))
    output.finish(cost.to_dict())
