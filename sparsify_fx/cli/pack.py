"""`sparsify-fx pack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsify_fx.cli.options import (
    Autotune,
    AxisLengths,
    Encoding,
    Functions,
    InputShapes,
    OutFile,
    Target,
    Values,
    read_axes,
    read_shapes,
)  # fmt: skip
from sparsify_fx.cli.output import JsonOption, Output

NAME = "pack"


def command(
    source: Annotated[
        Path, typer.Argument(metavar="IN.onnx", help="Any ONNX file, packed or not.")
    ],
    out: OutFile,
    encoding: Encoding = "auto",
    values: Values = "fp32",
    target: Target = "onnx",
    autotune: Autotune = False,
    functions: Functions = False,
    normalize_zeros: Annotated[
        bool | None,
        typer.Option(
            "--normalize-zeros/--keep-negative-zeros",
            help="Store -0.0 as 0.0, or keep it; without either as 0.0 where outputs stay the same.",
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option(help="Run both files in onnxruntime and compare.")
    ] = True,
    measure: Annotated[
        bool, typer.Option(help="Measure load time, memory and latency of both files.")
    ] = False,
    input_shape: InputShapes = None,
    axis: AxisLengths = None,
    json: JsonOption = None,
) -> None:
    """Store the zeros in an ONNX file's weights sparsely; every bit is checked.

    Examples:

        sparsify-fx pack pruned.onnx small.onnx

        sparsify-fx pack pruned.onnx smaller.onnx --values fp32-packed --measure

        sparsify-fx pack pruned.onnx faster.onnx --target sparse-ort --autotune --measure

        sparsify-fx pack detector.onnx faster.onnx --target sparse-ort --input-shape images=1,3,320,320 --axis batch=1
    """
    from sparsify_fx.onnx_export import pack_onnx

    # Shapes and axes are read by name: files have inputs, and axes that are open, in an order that nobody knows.
    output = Output(json)
    report = pack_onnx(
        source,
        out,
        encoding=encoding,
        values=values,
        target=target,
        autotune=autotune,
        functions=functions,
        normalize_zeros=normalize_zeros,
        verify=verify,
        measure=measure,
        input_shapes=read_shapes(input_shape),
        axes=read_axes(axis),
    )
    output.console.print(report.table())
    output.finish(report.to_dict())
