"""Words for worker processes of a DataLoader that are gone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from sparsify_fx.errors import DataError

T = TypeVar("T")
_PATIENCE = 0.2  # seconds; a signal comes within milliseconds of a death


@contextlib.contextmanager
def heard_of_lost_workers() -> Iterator[None]:
    """A DataError in place of what DataLoader says when a worker was killed.

    Around everything that goes on while workers are there: torch raises its RuntimeError in the handler of SIGCHLD,
    wherever the main thread is at that moment, and not only when a batch is fetched.
    """
    try:
        yield
    except RuntimeError as error:
        told = _found(error)
        if told is None:
            raise
        raise _lost(told) from error


def from_workers(loader: Iterable[T]) -> Iterator[T]:
    """The batches of a DataLoader; a DataError when a worker is killed while it hands one over."""
    batches = iter(loader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        # Tensors come through a socket of the worker, which breaks off before torch knows that it is gone.
        except (EOFError, OSError) as error:
            # What a living worker could not read comes under its own name.
            if str(error).startswith("Caught "):
                raise
            _hear_torch_out()
            raise _lost(f"{type(error).__name__} {error}") from error
        yield batch


def _hear_torch_out() -> None:
    """Let the signal of every worker that is gone come now: later its error would take the place of ours anywhere."""
    end = time.monotonic() + _PATIENCE
    while (left := end - time.monotonic()) > 0:
        with contextlib.suppress(RuntimeError):
            time.sleep(left)


def _found(error: BaseException | None) -> str | None:
    """What DataLoader said, by an error or by one that came of it: in torch.save, C++ raises another in its place."""
    while error is not None:
        if str(error).startswith("DataLoader worker (pid"):
            return str(error)
        error = error.__cause__ or error.__context__
    return None


def _lost(told: str) -> DataError:
    return DataError(
        f"a process that decodes images was ended ({told.strip()}), mostly for lack of memory: set workers or prefetch "
        "to less; the same command goes on from the last checkpoint"
    )
