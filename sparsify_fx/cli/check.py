"""`sparsify-fx check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsify_fx.cli.output import JsonOption, Output

NAME = "check"


def command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An .onnx file.")],
    tools: Annotated[
        list[str] | None,
        typer.Option(
            "--for",
            metavar="TOOL",
            help="Only this tool, and exit code 1 when it breaks, refuses or undoes the file; may be repeated.",
        ),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Say what an ONNX file holds and what other tools do with it: work, undo, refuse or break it.

    Nothing is run: the verdicts are what each tool was seen to do with such files. Without --for the exit code is 0.

    Examples:

        sparsify-fx check lenet5.onnx

        sparsify-fx check lenet5.onnx --for onnxsim --for openvino
    """
    from sparsify_fx.onnx_export.tools import check_file

    output = Output(json)
    report = check_file(file, tools or ())
    for table in report.tables():
        output.console.print(table)
    output.finish(report.to_dict())
    if tools and report.failing:
        raise typer.Exit(1)
