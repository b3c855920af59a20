"""The command line: `sparsify-fx COMMAND`; every module here but `options`, `output` and `verbose` is one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from sparsify_fx import __version__
from sparsify_fx.cli import (
    analyze,
    coverage,
    demo,
    export,
    inspect,
    lab,
    methods,
    pack,
    train,
    unpack,
)
from sparsify_fx.cli.verbose import with_verbose
from sparsify_fx.errors import SparsifyError
from sparsify_fx.tables.fitting import escaped


def _reporting(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with an error of this package as one red line on stderr and exit code 2."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except SparsifyError as error:
            line = Text(escaped(f"error: {' '.join(str(error).split())}"), style="red")
            Console(stderr=True).print(line, soft_wrap=True)
            raise typer.Exit(2) from None

    return run


app = typer.Typer(
    name="sparsify-fx",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Train neural networks sparse and ship them small. Every command takes --json PATH and -v.",
)
for _module in (
    train,
    demo,
    export,
    pack,
    unpack,
    inspect,
    methods,
    analyze,
    lab,
    coverage,
):
    app.command(_module.NAME)(with_verbose(_reporting(_module.command)))


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sparsify-fx {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_version
        ),
    ] = False,
) -> None:
    """Options of the whole program."""


def main() -> None:
    """The console script."""
    app()
