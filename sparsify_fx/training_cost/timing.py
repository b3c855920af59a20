"""Times of steps, in interleaved rounds."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from sparsify_fx.training_cost.trainee import Trainee

Clock = Callable[[], float]
# Steps before the rounds: the first makes the optimizer's state, and the allocator has seen all sizes after the second.
_WARM_UP = 2


def clock_of(device: str) -> Clock:
    """Processor time, which other programs disturb less; on a GPU the wall, for the processor only waits there."""
    return (
        time.process_time if torch.device(device).type == "cpu" else time.perf_counter
    )


def first_step(trainee: Trainee) -> float:
    """Wall seconds of the first step; what an earlier run has compiled is not used, or its time would tell nothing."""
    start = time.perf_counter()
    with _no_caches(trainee.setting.compile):
        trainee.step()
    return time.perf_counter() - start


def in_turn(
    trainees: Sequence[Trainee], rounds: int, clock: Clock
) -> dict[str, list[float]]:
    """Seconds of `rounds` steps of each trainee, one of each in a round."""
    times: dict[str, list[float]] = {each.name: [] for each in trainees}
    for trainee in trainees:
        for _ in range(_WARM_UP):
            trainee.step()
    for _ in range(rounds):
        for trainee in trainees:
            start = clock()
            trainee.step()
            times[trainee.name].append(clock() - start)
    return times


@contextmanager
def _no_caches(compiled: bool) -> Iterator[None]:
    if not compiled:
        yield
        return
    # Imported late: the compiler takes seconds to import, and most runs do without it.
    from torch._inductor import config

    with config.patch(force_disable_caches=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*force_disable_caches")
        yield
