"""The cheapest way to divide things into two sides, where some pairs cost something when they are apart."""

from __future__ import annotations

import math
from collections.abc import Mapping

import networkx as nx
from networkx.algorithms.flow import shortest_augmenting_path

SOURCE, SINK = "source", "sink"
_UNITS = 100
"""Costs are counted in hundredths. networkx asks whether flow == capacity, which sums of floats would answer by chance;
and what costs the same by its shapes (layouts.TO_BLOCKS of two values, and of both in one) has to stay the same."""


def minimum_cut(costs: Mapping[tuple[str, str], float]) -> set[str]:
    """The side of SOURCE in the division of least cost; what costs the same on both sides is left out.

    `costs[a, b]` is paid when `a` stands on the side of SOURCE and `b` on that of SINK; `math.inf` forbids it.
    On the largest of the graphs in docs/results/minimum_cut.json this algorithm of networkx took less than twice as
    long as a cut of our own did, which is why there is none any more.

    >>> sorted(minimum_cut({(SOURCE, "a"): 3, ("a", SINK): 1, (SOURCE, "b"): 1, ("b", SINK): 2, ("a", "b"): 0.5}))
    ['a', 'source']
    """
    _, (_, side) = nx.minimum_cut(
        mirrored(costs), SINK, SOURCE, flow_func=shortest_augmenting_path
    )
    return set(side)


def mirrored(costs: Mapping[tuple[str, str], float]) -> nx.DiGraph:
    """The graph of these costs with every edge turned round, to be cut from SINK to SOURCE.

    Of two divisions that cost the same networkx gives its target, the second of them, the smaller side.
    """
    graph = nx.DiGraph()
    # Both must exist, even where no cost concerns one of them: networkx refuses a
    # terminal that is not in the graph.
    graph.add_nodes_from((SOURCE, SINK))
    graph.add_edges_from(
        (b, a, {"capacity": _units(cost)}) for (a, b), cost in costs.items()
    )
    return graph


def _units(cost: float) -> float:
    # Infinite ones stay so: networkx gives them a capacity that no flow reaches.
    return cost if math.isinf(cost) else round(cost * _UNITS)
