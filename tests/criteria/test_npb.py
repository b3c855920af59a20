"""npb against an integer program of each layer, solved by scipy, and paths against products of masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sparsify_fx.allocations import ErdosRenyiKernel, Uniform
from sparsify_fx.criteria import NodePathBalance
from sparsify_fx.criteria.choosing import choose_masks
from sparsify_fx.errors import MethodError
from tests.criteria.common import context_of, weights_of

optimize = pytest.importorskip("scipy.optimize")


def value_of(
    m: np.ndarray, paths: np.ndarray, most: float, how: NodePathBalance
) -> float:
    """The objective for m[output, input] weights in each kernel."""
    units = (m.sum(0) > 0).sum() + (m.sum(1) > 0).sum()
    return float(
        how.alpha * units / sum(m.shape)
        + (1 - how.alpha) * (m * paths).sum() / most
        + how.beta * (m > 0).sum() / m.sum()
    )


def best_value(
    shape: tuple[int, int, int], paths: np.ndarray, count: int, how: NodePathBalance
) -> tuple[float, float]:
    """(the optimum of the integer program, the most paths)."""
    outputs, inputs, positions = shape
    cells = outputs * inputs
    ranked = np.sort(np.repeat(paths, outputs * positions))[::-1]
    most = float(ranked[:count].sum())
    # Variables: m per kernel, kernel in use, input in use, output in use.
    cost = -np.concatenate([
        (1 - how.alpha) * np.tile(paths, outputs) / most,
        np.full(cells, how.beta / count),
        np.full(inputs + outputs, how.alpha / (inputs + outputs)),
    ])  # fmt: skip
    eye, none = np.eye(cells), np.zeros((cells, inputs + outputs))
    column = np.array(
        [[c % inputs == i for c in range(cells)] for i in range(inputs)], float
    )
    row = np.array(
        [[c // inputs == o for c in range(cells)] for o in range(outputs)], float
    )
    sums = np.vstack([column, row])
    rules: list[Any] = [
        optimize.LinearConstraint(
            np.r_[np.ones(cells), np.zeros(len(cost) - cells)], count, count
        ),
        optimize.LinearConstraint(np.hstack([eye, -eye, none]), 0, np.inf),
        optimize.LinearConstraint(
            np.hstack([sums, np.zeros_like(sums), -np.eye(inputs + outputs)]), 0, np.inf
        ),
    ]
    upper = np.r_[np.full(cells, positions), np.ones(len(cost) - cells)]
    found = optimize.milp(
        cost,
        constraints=rules,
        bounds=optimize.Bounds(0, upper),
        integrality=np.ones(len(cost)),
    )
    return -float(found.fun), most


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.7, 0.99, 1.0])
@pytest.mark.parametrize(
    ("shape", "count"),
    [((4, 6, 1), 3), ((4, 6, 1), 9), ((7, 3, 4), 20), ((3, 3, 9), 5), ((5, 5, 1), 25)],
)
def test_a_layer_has_the_best_value_of_all_masks(
    shape: tuple[int, int, int], count: int, alpha: float
) -> None:
    how = NodePathBalance(alpha=alpha, beta=0.01)
    generator = np.random.default_rng(count)
    paths = generator.random(shape[1]) ** 2
    paths /= paths.max()
    sizes = torch.tensor(generator.random(shape))
    mask = how._best(sizes, torch.tensor(paths), count)
    assert int(mask.sum()) == count
    best, most = best_value(shape, paths, count, how)
    assert value_of(mask.sum(2).numpy(), paths, most, how) == pytest.approx(
        best, abs=1e-7
    )
    # Within a kernel the largest weights are taken.
    for kernel, kept in zip(
        sizes.reshape(-1, shape[2]), mask.reshape(-1, shape[2]), strict=True
    ):
        assert set(kept.nonzero().flatten().tolist()) == set(
            kernel.topk(int(kept.sum())).indices.tolist()
        )


def test_paths_reach_the_units_of_the_next_layer_and_many_units_are_in_use() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3, groups=2),
        nn.Flatten(),
        nn.Linear(64, 5),
    )
    batches = [(torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64))]
    context = context_of(
        model, batches=batches, kept=110, allocation=ErdosRenyiKernel()
    )
    masks = choose_masks(NodePathBalance(), context)
    expected = ErdosRenyiKernel().counts(
        weights_of(model), {n: w.numel() for n, w in weights_of(model).items()}, 110
    )
    assert {name: int(mask.sum()) for name, mask in masks.items()} == expected
    # Units of the first two layers, by products of the masks: all of them have a path from the input.
    first = masks["0.weight"].flatten(2).sum(2).double().sum(1)
    grouped = masks["2.weight"].flatten(2).sum(2).double()
    second = torch.cat([grouped[:2] @ first[:4], grouped[2:] @ first[4:]])
    assert (first > 0).all()
    assert (second > 0).all()
    # More weight on units, and more inputs of the last layer are in use.
    balanced = choose_masks(NodePathBalance(alpha=0.99), context)
    assert balanced["4.weight"].any(0).sum() > masks["4.weight"].any(0).sum()


def test_other_allocations_and_later_prunings_are_met() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))
    batches = [(torch.zeros(2, 6), torch.zeros(2, dtype=torch.int64))]
    given: dict[str, Any] = {"batches": batches, "allocation": Uniform()}
    first = choose_masks(NodePathBalance(), context_of(model, kept=30, **given))
    later = choose_masks(
        NodePathBalance(), context_of(model, kept=12, alive=first, **given)
    )
    assert sum(int(mask.sum()) for mask in later.values()) == 12
    assert all((later[name] <= first[name]).all() for name in first)
    with pytest.raises(MethodError, match=r"alpha in \[0, 1\]"):
        NodePathBalance(alpha=2.0)
