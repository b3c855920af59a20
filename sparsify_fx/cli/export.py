"""`sparsify-fx export`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from sparsify_fx.cli.options import (
    Autotune,
    Encoding,
    Functions,
    OutFile,
    PluginOption,
    Target,
    Values,
)
from sparsify_fx.cli.output import JsonOption, Output
from sparsify_fx.plugins import load_files

NAME = "export"


def command(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A run folder, its checkpoint.pt or its model.safetensors.",
        ),
    ],
    out: OutFile,
    encoding: Encoding = "auto",
    values: Values = "fp32",
    target: Target = "onnx",
    autotune: Autotune = False,
    functions: Functions = False,
    optimize: Annotated[
        bool, typer.Option(help="Fold norms and remove dead channels first.")
    ] = True,
    measure: Annotated[
        bool, typer.Option(help="Measure load time, memory and latency against dense.")
    ] = False,
    plugin: PluginOption = None,
    json: JsonOption = None,
) -> None:
    """Write the trained model as a sparse ONNX file, checked in onnxruntime.

    It is checked on test images of its data where these are there, else on random inputs; the report says on which.

    Example:

        sparsify-fx export runs/lrr-0123456789 lenet5.onnx

        sparsify-fx export runs/lrr-0123456789 lenet5-fast.onnx --target sparse-ort --measure
    """
    from sparsify_fx.onnx_export import export
    from sparsify_fx.train.restore import load_trained

    output = Output(json)
    load_files(plugin)
    # The model comes merged, with test images of its data where those are there.
    trained = load_trained(checkpoint)
    config = trained.config
    report = export(
        trained.model,
        out,
        # One image is enough to trace with, for the batch size stays open; all of them are compared.
        trained.inputs[:1],
        encoding=encoding,
        values=values,
        target=target,
        autotune=autotune,
        functions=functions,
        optimize=optimize,
        measure=measure,
        verify_inputs=trained.inputs,
        # Where the file came from, so that it can be told without the run folder.
        metadata={"method": config.resolved().method, "recipe": config.hash()},
    )
    report = replace(report, notes=(*report.notes, f"checked on {trained.inputs_are}"))
    # None without --optimize, or where no pass found anything to do.
    if (passes := report.passes_table()) is not None:
        output.console.print(passes)
    output.console.print(report.table())
    output.finish(report.to_dict())
