"""Arguments and options that `export`, `pack` and `unpack` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

OutFile = Annotated[Path, typer.Argument(metavar="OUT.onnx", help="The file to write.")]
Encoding = Annotated[str, typer.Option(help="auto, gap, bitmask, coo or dense.")]
Values = Annotated[str, typer.Option(help="fp32, fp32-packed, fp16 or int8.")]
Target = Annotated[str, typer.Option(help="onnx, or sparse-ort: kernels that skip zeros.")]
Autotune = Annotated[bool, typer.Option(help="With sparse-ort: time each layer on this machine.")]
Functions = Annotated[bool, typer.Option(help="Store each weight as one node.")]
