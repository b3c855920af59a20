"""Every allocation of torch while something runs: how many bytes, where, and when they come and go.

The events are those of torch's allocators, as its profiler notes them, so that what an operator allocates for itself is
among them, and what our kernels do is not disturbed: they leave tensors alone that a TorchDispatchMode watches.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Allocation:
    """An event of an allocator: `size` bytes came to `address`, or went where `size` is negative."""

    address: int
    size: int


def allocations(run: Callable[[], None], device: torch.device) -> list[Allocation]:
    """What `run` allocates and frees on a device, in order; the end of what was there before is not told.

    >>> def run() -> None:
    ...     torch.empty(4)
    >>> [event.size for event in allocations(run, torch.device("cpu"))]
    [16, -16]
    """
    # The profiler writes to standard error where there is no GPU, which nobody who runs this can change.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    assert profiled.profiler is not None
    results: Any = profiled.profiler.kineto_results
    found = []
    for event in _events(results.experimental_event_tree()):
        fields = event.extra_fields
        if (
            event.tag == torch._C._profiler._EventType.Allocation
            and fields.device.type == device.type
        ):
            allocation = Allocation(fields.ptr, fields.alloc_size)
            found.append((event.start_time_ns, allocation))
    # Events hang on the operators in which they happen; the sort keeps the order of those of one moment.
    return [allocation for _, allocation in sorted(found, key=lambda each: each[0])]


def _events(roots: Any) -> Iterator[Any]:
    """All events of the profiler's tree, parents before children; without recursion, since autograd nests deeply."""
    waiting = list(reversed(roots))
    while waiting:
        event = waiting.pop()
        yield event
        waiting += reversed(event.children)


def peak_of(events: list[Allocation], size: int = 0) -> int:
    """The most bytes at any time, with `size` there from the beginning."""
    sizes = (event.size for event in events)
    return max(itertools.accumulate(sizes, initial=size))


def alive_at_peak(
    events: list[Allocation], counted: Callable[[int], bool]
) -> list[int]:
    """The numbers of the events that brought what is alive when the counted sizes are most bytes, of these alone."""
    size = most = 0
    alive: dict[int, int] = {}
    found: list[int] = []
    for number, event in enumerate(events):
        if not counted(abs(event.size)):
            continue
        size += event.size
        if event.size > 0:
            alive[event.address] = number
            if size > most:
                most, found = size, list(alive.values())
        else:
            alive.pop(event.address, None)
    return found
