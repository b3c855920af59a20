"""`sparsify-fx inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from sparsify_fx.cli.options import (
    AxisLengths,
    InputShapes,
    PluginOption,
    read_axes,
    read_shapes,
)
from sparsify_fx.cli.output import JsonOption, Output
from sparsify_fx.plugins import load_files

NAME = "inspect"


def command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="An .onnx, .safetensors, .pt or .pth file, an index of shards, or a folder with one, such as a run.",
        ),
    ],
    picture: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Also draw the density of every layer (.png or .svg)."
        ),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            help="Time an ONNX file against the same model with plain weights."
        ),
    ] = False,
    input_shape: InputShapes = None,
    axis: AxisLengths = None,
    plugin: PluginOption = None,
    json: JsonOption = None,
) -> None:
    """Show shape, density, zeros and bytes of every layer in a file.

    Examples:

        sparsify-fx inspect lenet5.onnx

        sparsify-fx inspect runs/lrr-0123456789/checkpoint.pt --json -

        sparsify-fx inspect lenet5.onnx --picture lenet5.svg

        sparsify-fx inspect lenet5-fast.onnx --measure --axis batch=8
    """
    from sparsify_fx.onnx_export import inspect_file
    from sparsify_fx.onnx_export.report.picture import check_picture, draw_density
    from sparsify_fx.tables.fitting import escaped

    output = Output(json)
    load_files(plugin)
    # A wrong ending, or a missing matplotlib, is told before a large file is read.
    if picture is not None:
        check_picture(picture)
    report = inspect_file(
        file,
        measure=measure,
        input_shapes=read_shapes(input_shape),
        axes=read_axes(axis),
    )
    output.console.print(report.table())
    if picture is not None:
        draw_density(report, picture)
        output.console.print(Text(escaped(f"density per layer: {picture}")))
    output.finish(report.to_dict())
