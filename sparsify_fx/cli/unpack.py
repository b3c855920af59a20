"""`sparsify-fx unpack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsify_fx.cli.options import OutFile
from sparsify_fx.cli.output import JsonOption, Output

NAME = "unpack"


def command(
    source: Annotated[
        Path, typer.Argument(metavar="IN.onnx", help="A packed ONNX file.")
    ],
    target: OutFile,
    json: JsonOption = None,
) -> None:
    """Write a packed ONNX file with plain weights again, bit for bit.

    Example:

        sparsify-fx unpack small.onnx dense.onnx
    """
    from sparsify_fx.onnx_export import unpack_onnx

    output = Output(json)
    report = unpack_onnx(source, target)
    output.console.print(report.table())
    output.finish(report.to_dict())
