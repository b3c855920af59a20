"""The cheapest way to divide things into two sides, where some pairs cost something when they are apart."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Mapping
from itertools import pairwise

SOURCE, SINK = "source", "sink"
_LEAST = 1e-6
"""Capacities below this count as used up: they are sums of floats."""


def minimum_cut(costs: Mapping[tuple[str, str], float]) -> set[str]:
    """The side of SOURCE in the division of least cost; what costs the same on both sides is left out.

    `costs[a, b]` is paid when `a` stands on the side of SOURCE and `b` on that of SINK; `math.inf` forbids it. By
    shortest augmenting paths: J. Edmonds and R. M. Karp, J. ACM 19 (1972).

    >>> sorted(minimum_cut({(SOURCE, "a"): 3, ("a", SINK): 1, (SOURCE, "b"): 1, ("b", SINK): 2, ("a", "b"): 0.5}))
    ['a', 'source']
    """
    left: dict[str, dict[str, float]] = defaultdict(dict)
    for (a, b), cost in costs.items():
        left[a][b] = left[a].get(b, 0.0) + cost
        left[b].setdefault(a, 0.0)
    for middle in list(left):  # what goes through one place alone, first: that is most of it
        _send(left, [SOURCE, middle, SINK])
    while True:
        before = _reached(left)
        if SINK not in before:
            return set(before)
        path = [SINK]
        while path[-1] != SOURCE:
            path.append(before[path[-1]])
        _send(left, path[::-1])


def _reached(left: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """All that SOURCE reaches over what is left, each with the place before it; ends at SINK."""
    before, waiting = {SOURCE: SOURCE}, deque([SOURCE])
    while waiting and SINK not in before:
        here = waiting.popleft()
        for there, capacity in left.get(here, {}).items():
            if capacity > _LEAST and there not in before:
                before[there] = here
                waiting.append(there)
    return before


def _send(left: dict[str, dict[str, float]], path: list[str]) -> None:
    """Uses up as much of a path as it has."""
    steps = list(pairwise(path))
    amount = min(left.get(a, {}).get(b, 0.0) for a, b in steps)
    if 0 < amount < math.inf:
        for a, b in steps:
            left[a][b] -= amount
            left[b][a] += amount
