"""Words for worker processes of a DataLoader that are gone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sparsify_fx.errors import DataError


@contextlib.contextmanager
def heard_of_lost_workers() -> Iterator[None]:
    """A DataError in place of what DataLoader says when a worker was killed.

    Around everything that goes on while workers are there: torch raises its RuntimeError in the handler of SIGCHLD,
    wherever the main thread is at that moment, and not only when a batch is fetched.
    """
    try:
        yield
    except RuntimeError as error:
        told = str(error)
        if not told.startswith("DataLoader worker (pid"):
            raise
        raise DataError(
            f"a process that decodes images was ended: {told.strip()} Mostly memory was short: set workers or prefetch "
            "to less; the same command goes on from the last checkpoint"
        ) from error
