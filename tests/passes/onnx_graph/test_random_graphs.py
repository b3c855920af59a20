"""500 random small networks, equal before and after all passes."""

from __future__ import annotations

import numpy as np
import pytest

from sparsify_fx.passes.onnx_graph import PASSES, GraphPass, optimize
from tests.passes.onnx_graph.common import copy, distance, normal, run
from tests.passes.onnx_graph.random_graphs import random_model

pytestmark = pytest.mark.slow

GRAPHS, PART = 500, 50


@pytest.mark.cross_section("0")
@pytest.mark.parametrize("start", range(0, GRAPHS, PART))
def test_random_graphs_before_and_after(start: int) -> None:
    """Outputs equal to 1e-5 of the largest entry, most of them to 1e-6; a second run finds nothing left to do."""
    lost, alive, distances = 0, 0, []
    for seed in range(start, start + PART):
        model, x = random_model(seed), normal(2, 3, 9, 9, seed=seed)
        smaller, rows = optimize(model, prove=False)
        distances.append(distance(model, smaller, x))
        assert distances[-1] < 1e-5, seed
        assert seed % 5 or optimize(smaller, prove=False)[0] is smaller, seed
        lost += (
            sum(
                row.channels
                for row in rows
                if row.name in ("dead-channels", "unread-channels")
            )
            > 0
        )
        logits = run(model, x)[0]
        alive += bool(np.abs(logits[0] - logits[1]).max() > 1e-4 * np.abs(logits).max())
    assert np.median(distances) < 1e-6
    assert lost > 0.8 * PART  # the dead channels are there and are found,
    assert alive > 0.4 * PART  # and what is left is no constant


@pytest.mark.parametrize("one", PASSES, ids=str)
def test_each_pass_by_itself(one: GraphPass) -> None:
    """Exact passes keep every bit; no pass finds anything to do in what it left."""
    changed = 0
    for seed in range(1000, 1050):
        model, x = random_model(seed), normal(2, 3, 9, 9, seed=seed)
        work = copy(model)
        if one.run(work):
            changed += 1
            assert distance(model, work, x) <= (0.0 if one.exact else 1e-5), seed
            assert not one.run(work), seed
    assert (
        changed or one.name == "fold-constants"
    )  # these graphs have no constant parts


def test_the_same_graph_gives_the_same_bytes() -> None:
    first, second = (
        optimize(random_model(7), prove=False)[0].SerializeToString(deterministic=True)
        for _ in range(2)
    )
    assert first == second
