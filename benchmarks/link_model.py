"""How long a step of data-parallel training takes on links of given speed: buckets, a ring, and the overlap of both."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """The slowest link of a ring of GPUs: bytes a second that it takes in each direction, for all of them together."""

    name: str
    gpus: int
    bytes_a_second: float


# In a ring over machines each network card carries what one GPU sends, so its speed is not divided among its GPUs.
LINKS = (
    Link("8 GPUs, NVLink at 200 GB/s", 8, 200e9),
    Link("8 GPUs, PCIe at 20 GB/s", 8, 20e9),
    Link("64 GPUs, 400 Gb/s", 64, 50e9),
    Link("64 GPUs, 100 Gb/s", 64, 12.5e9),
    Link("64 GPUs, 25 Gb/s", 64, 3.125e9),
)


@dataclass(frozen=True)
class Traffic:
    """What one step gives to all-reduces.

    Attributes:
        buckets: the bytes of each, in their order.
        ready: when each is ready, as a share of the backward pass.
    """

    buckets: list[int]
    ready: list[float]


def all_reduce_seconds(size: int, link: Link, latency: float) -> float:
    """2 (N − 1) / N · size / speed, and the latency of 2 (N − 1) hops: a ring at full speed.

    >>> all_reduce_seconds(100, Link("", 2, 100.0), 0.0)
    1.0
    """
    hops = 2 * (link.gpus - 1)
    return hops * (size / link.gpus / link.bytes_a_second + latency)


def step_seconds(
    traffic: Traffic, link: Link, *, compute: float, latency: float
) -> float:
    """Seconds of a step: forward (a third of `compute`), backward, and what of the buckets is left after it.

    >>> step_seconds(Traffic([100], [1.0]), Link("", 2, 100.0), compute=3.0, latency=0.0)
    4.0
    >>> step_seconds(Traffic([100], [0.0]), Link("", 2, 100.0), compute=3.0, latency=0.0)
    3.0
    """
    forward = compute / 3
    free = 0.0
    for size, ready in zip(traffic.buckets, traffic.ready, strict=True):
        start = max(free, forward + ready * (compute - forward))
        free = start + all_reduce_seconds(size, link, latency)
    return max(free, compute)
