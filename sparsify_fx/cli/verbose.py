"""`-v`: the log lines of this package on standard error, while a command runs."""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from sparsify_fx.tables.fitting import escaped

Verbose = Annotated[
    int,
    typer.Option(
        "--verbose",
        "-v",
        count=True,
        show_default=False,
        help="Say what it is at; -vv: in detail.",
    ),
]

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)


class _OneLine(logging.Formatter):
    """Time, module and message; names out of files cannot move the cursor."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(name)s: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """The lines of the message, each escaped."""
        return "\n".join(escaped(line) for line in super().format(record).split("\n"))


def with_verbose(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option more, `-v`, which shows what it is at."""

    # typer builds options from the signature and the annotations, not from what `run` takes: both get one more.
    @functools.wraps(command)
    def run(*args: Any, verbose: int, **kwargs: Any) -> None:
        with telling(verbose):
            command(*args, **kwargs)

    # Evaluated in the command's own module, whose imports its annotations name; here they would be unknown.
    known = inspect.signature(command, eval_str=True)
    option = inspect.Parameter(
        "verbose", inspect.Parameter.KEYWORD_ONLY, default=0, annotation=Verbose
    )
    run.__dict__["__signature__"] = known.replace(
        parameters=[*known.parameters.values(), option]
    )
    run.__annotations__ = {**command.__annotations__, "verbose": Verbose}
    return run


@contextmanager
def telling(verbose: int) -> Iterator[None]:
    """Show INFO (1) or also DEBUG (2 or more) of `sparsify_fx`; with 0 logging stays as it is."""
    if verbose == 0:
        yield
        return
    # The package's logger alone: what torch and onnxruntime log at INFO would bury it.
    logger = logging.getLogger("sparsify_fx")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine())
    level = logger.level
    logger.setLevel(_LEVELS[min(verbose, 2)])
    logger.addHandler(handler)
    try:
        yield
    # Commands are also called from tests and notebooks, where a second one would else show every line twice.
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
