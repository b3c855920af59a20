"""`sparsify-fx demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsify_fx.cli.output import JsonOption, Output

NAME = "demo"


def command(
    out: Annotated[Path, typer.Option(help="Where results go.")] = Path(
        "sparsify-demo"
    ),
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Epochs per method, over all its cycles; 20 if left out."
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Of weights, masks and order of the data.")
    ] = 0,
    json: JsonOption = None,
) -> None:
    """Train a small net on real digits four ways, three of them with a fiftieth of its weights; write sparse ONNX.

    Example:

        sparsify-fx demo --out sparsify-demo --json demo.json
    """
    from sparsify_fx.demo.demo import run_demo

    # Made first: a --json path that cannot be written ends the command before minutes of training.
    output = Output(json)
    result = run_demo(out, epochs=epochs, seed=seed, console=output.console)
    output.console.print(result.table())
    output.finish(result.to_dict())
