"""The command line, `sparsify-fx COMMAND`: a module here for each, and launching, options, output, verbose."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from sparsify_fx import __version__
from sparsify_fx.cli import (
    analyze,
    bench,
    check,
    compare,
    coverage,
    demo,
    export,
    inspect,
    lab,
    methods,
    pack,
    report,
    reproduce,
    sweep,
    train,
    unpack,
)
from sparsify_fx.cli.verbose import with_verbose
from sparsify_fx.errors import SparsifyError
from sparsify_fx.tables.fitting import escaped

# Seconds in which the process that tells of an error has left for sure, and torchrun has ended those that wait.
_LATER = 20.0


def _reporting(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with an error of this package as one red line on stderr and exit code 2."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except SparsifyError as error:
            # Of the processes of one training one is enough to say what is wrong. It shall be the first to leave: then
            # torchrun ends the others.
            if error.told_elsewhere:
                time.sleep(_LATER)
                raise typer.Exit(2) from None
            # As text, since a path in an error may hold what rich takes for markup; soft-wrapped, so that it stays one
            # line for grep. Exit code 2, as typer's own for wrong arguments; 1 is left to checks that fail.
            line = Text(escaped(f"error: {' '.join(str(error).split())}"), style="red")
            Console(stderr=True).print(line, soft_wrap=True)
            raise typer.Exit(2) from None

    return run


# Tracebacks stay Python's own: rich's would show local variables, which are whole models here.
app = typer.Typer(
    name="sparsify-fx",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Train neural networks sparse and ship them small. Every command takes --json PATH and -v.",
)
# -v is outermost, so that a command that ends in an error still takes its handler off the logger.
for _module in (
    train,
    sweep,
    compare,
    report,
    demo,
    export,
    pack,
    unpack,
    inspect,
    check,
    methods,
    analyze,
    lab,
    reproduce,
    coverage,
    bench,
):
    app.command(_module.NAME)(with_verbose(_reporting(_module.command)))


def _version(wanted: bool) -> None:
    """Print the version and end, before typer asks for the command that is missing."""
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
    """Run the command line, as the console script `sparsify-fx` and `python -m sparsify_fx` do."""
    app()
