"""`--nproc N`: the same command in N processes, by torchrun's own launcher."""

from __future__ import annotations

import logging
import math
import os
import signal
from collections.abc import Iterator
from typing import Any

import typer

from sparsify_fx.errors import DistributedError


def launch(count: int, context: typer.Context) -> None:
    """Run the command that `context` is of in `count` processes, without its `--nproc`, and exit as they do.

    Raises DistributedError when one of them is killed.
    """
    # Imported here: the launcher takes a second, which no other command should wait for.
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import get_args_parser, run

    from sparsify_fx.train.signals import LEFT, NUMBERS

    # Without it the launcher would die of SIGUSR1, and its processes be left behind. By torchrun's variable for its own
    # option, which replaces TORCHELASTIC_SIGNALS_TO_HANDLE whatever that says.
    handled = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
    os.environ.setdefault("PET_SIGNALS_TO_HANDLE", handled)
    # It kills its processes half a minute after such a signal, unless they may take longer to save.
    patience = max(30, math.ceil(context.params["grace"]) + 5)
    os.environ.setdefault("PET_SHUTDOWN_TIMEOUT", str(patience))
    # torchrun would set one thread for each process, with a banner; so many let them share the cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // count)))
    # Its log repeats what the processes and the error below say. torch gives each of its modules a level of its own.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    own = [str(context.command.name), *_given(context)]
    options = ["--standalone", f"--nproc-per-node={count}", "-m", "sparsify_fx", *own]
    try:
        run(get_args_parser().parse_args(options))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode > 0:
            # It has said what was wrong.
            raise typer.Exit(failure.exitcode) from None
        name = signal.Signals(-failure.exitcode).name
        raise DistributedError(
            f"rank {rank} was ended by {name}, so are the others; the same command goes on from the last checkpoint"
        ) from None
    except SignalException as error:
        # The processes have had the same signal, and left as one process does that was asked to.
        saved = int(error.sigval) in NUMBERS and error.sigval != signal.SIGINT
        raise typer.Exit(LEFT if saved else 128 + int(error.sigval)) from None


def _given(context: typer.Context) -> Iterator[str]:
    """The options and arguments that the user gave, but for `--nproc`."""
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        # What was not given keeps its default there too, among it what the environment decides.
        if name == "nproc" or source is None or source.name != "COMMANDLINE":
            continue
        yield from _written(parameter, context.params[name])


def _written(parameter: Any, value: Any) -> Iterator[str]:
    """One option or argument as it is written in a command line."""
    if parameter.param_type_name == "argument":
        yield str(value)
    elif getattr(parameter, "count", False):
        yield from [parameter.opts[0]] * value
    elif getattr(parameter, "is_flag", False):
        yield parameter.opts[0] if value else parameter.secondary_opts[0]
    else:
        for one in value if isinstance(value, (list, tuple)) else [value]:
            # As one word: a value may begin with a dash.
            yield (
                f"{parameter.opts[0]}={one}"
                if parameter.opts[0].startswith("--")
                else f"{parameter.opts[0]}{one}"
            )


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
