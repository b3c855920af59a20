"""`sparsify-fx export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsify_fx.cli.output import JsonOption, Output

NAME = "export"


def command(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A run folder, its checkpoint.pt or its model.safetensors.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="The file to write.")],
    encoding: Annotated[str, typer.Option(help="auto, gap, bitmask, coo or dense.")] = "auto",
    values: Annotated[str, typer.Option(help="fp32, fp32-packed, fp16 or int8.")] = "fp32",
    target: Annotated[str, typer.Option(help="onnx, or sparse-ort: kernels that skip zeros.")] = "onnx",
    autotune: Annotated[bool, typer.Option(help="With sparse-ort: time each layer on this machine.")] = False,
    functions: Annotated[bool, typer.Option(help="Store each weight as one node.")] = False,
    optimize: Annotated[bool, typer.Option(help="Fold norms and remove dead channels first.")] = True,
    measure: Annotated[bool, typer.Option(help="Measure load time, memory and latency against dense.")] = False,
    json: JsonOption = None,
) -> None:
    """Write the trained model as a sparse ONNX file, checked in onnxruntime on real test inputs.

    Example:

        sparsify-fx export runs/lrr-0123456789 lenet5.onnx

        sparsify-fx export runs/lrr-0123456789 lenet5-fast.onnx --target sparse-ort --measure
    """
    from sparsify_fx.onnx_export import export
    from sparsify_fx.train.restore import load_trained

    output = Output(json)
    trained = load_trained(checkpoint)
    config = trained.config
    report = export(
        trained.model,
        out,
        trained.inputs[:1],
        encoding=encoding,
        values=values,
        target=target,
        autotune=autotune,
        functions=functions,
        optimize=optimize,
        measure=measure,
        verify_inputs=trained.inputs,
        metadata={"method": config.resolved().method, "recipe": config.hash()},
    )
    if (passes := report.passes_table()) is not None:
        output.console.print(passes)
    output.console.print(report.table())
    output.finish(report.to_dict())
