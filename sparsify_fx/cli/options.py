"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

# Each is a type of its own, so that an option reads the same in the help of every command that has it.
PluginOption = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        help="A Python file that registers names; once for each.",
    ),
]
OutFile = Annotated[Path, typer.Argument(metavar="OUT.onnx", help="The file to write.")]
Encoding = Annotated[str, typer.Option(help="auto, gap, bitmask, coo or dense.")]
Values = Annotated[str, typer.Option(help="fp32, fp32-packed, fp16 or int8.")]
Target = Annotated[
    str,
    typer.Option(
        help="onnx for any runtime, or the name of the one it is for, such as openvino; an unknown name "
        "lists them all. sparse-ort: kernels that skip zeros."
    ),
]
Autotune = Annotated[
    bool,
    typer.Option(help="With sparse-ort: choose layers by times of whole models here."),
]
Functions = Annotated[bool, typer.Option(help="Store each weight as one node.")]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format", metavar="FORMAT", help="png, svg or pdf; several are possible."
    ),
]
Dpi = Annotated[int, typer.Option(help="Pixels an inch, of png.")]
FigureSize = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="CM",
        help="Width of figures in cm, or WIDTHxHEIGHT; 8.5 is a column of a paper.",
    ),
]
InputShapes = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape",
        metavar="NAME=N,N,...",
        help="Shape of an input; once for each that is to be given.",
    ),
]
AxisLengths = Annotated[
    list[str] | None,
    typer.Option(
        "--axis",
        metavar="NAME=N",
        help="Length of a named open axis; once for each that is to be given.",
    ),
]


def read_shapes(options: Sequence[str] | None) -> dict[str, tuple[int, ...]]:
    """The shapes of `--input-shape`, by name; typer.BadParameter for what is none.

    >>> read_shapes(["images=1,3,320,320", "scale="])
    {'images': (1, 3, 320, 320), 'scale': ()}
    """
    return {
        name: tuple(numbers)
        for name, numbers in _read(
            options, "--input-shape", "images=1,3,320,320"
        ).items()
    }


def read_axes(options: Sequence[str] | None) -> dict[str, int]:
    """The lengths of `--axis`, by name; typer.BadParameter for what is none.

    >>> read_axes(["batch=1"])
    {'batch': 1}
    """
    found = _read(options, "--axis", "batch=1")
    for name, numbers in found.items():
        if len(numbers) != 1:
            raise typer.BadParameter(
                f"{name}: expected one length, such as batch=1", param_hint="--axis"
            )
    return {name: numbers[0] for name, numbers in found.items()}


def _read(
    options: Sequence[str] | None, option: str, example: str
) -> dict[str, list[int]]:
    """Names and numbers; a name may hold an equals sign, and each may be given once."""
    found: dict[str, list[int]] = {}
    for text in options or ():
        # From the right: names of inputs are whatever an exporter made of them, but numbers hold no equals sign.
        name, equals, numbers = text.rpartition("=")
        # 1x3x320x320 is as clear as 1,3,320,320; nothing at all is the shape of a scalar.
        parts = []
        if numbers.strip():
            parts = [part.strip() for part in numbers.replace("x", ",").split(",")]
        if not equals or not name or not all(part.isdecimal() for part in parts):
            raise typer.BadParameter(
                f"{text!r}: expected a name and numbers, such as {example}",
                param_hint=option,
            )
        if name in found:
            raise typer.BadParameter(
                f"{name!r} is given twice; give it once", param_hint=option
            )
        found[name] = [int(part) for part in parts]
    return found
