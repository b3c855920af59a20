from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsify_fx.allocations import (
    ALLOCATIONS,
    Balanced,
    ErdosRenyiKernel,
    Global,
    NofM,
    PerLayer,
    Uniform,
    proportional,
)
from sparsify_fx.errors import SparsityError

SHAPES = {"conv1": (16, 3, 3, 3), "conv2": (32, 16, 3, 3), "down": (32, 16, 1, 1), "fc": (10, 32)}


def scores(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=generator) for name, shape in SHAPES.items()}


def sizes() -> dict[str, int]:
    return {name: score.numel() for name, score in scores().items()}


FREE = [name for name in ALLOCATIONS if name not in ("per-layer", "n:m")]  # those that meet any budget


@pytest.mark.parametrize("name", FREE)
@pytest.mark.parametrize("density", [1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.001])
def test_every_allocation_spends_the_budget_to_the_weight(name: str, density: float) -> None:
    kept = round(density * sum(sizes().values()))
    counts = ALLOCATIONS[name]().counts(scores(), sizes(), kept)
    assert sum(counts.values()) == kept
    assert all(0 <= counts[layer] <= size for layer, size in sizes().items())


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 200)), min_size=1, max_size=12), st.data())
def test_proportional_is_the_water_level(layers: list[tuple[int, int]], data: st.DataObject) -> None:
    shares = {str(i): share for i, (share, _) in enumerate(layers)}
    capacity = {str(i): room for i, (_, room) in enumerate(layers)}
    kept = data.draw(st.integers(0, sum(capacity.values())))
    counts = proportional(shares, capacity, kept)
    assert sum(counts.values()) == kept
    assert all(0 <= counts[name] <= capacity[name] for name in shares)
    # Layers that are not full stand at one level, up to the rounding of one weight each.
    open_layers = [name for name in shares if counts[name] < capacity[name]]
    for a in open_layers:
        for b in shares:
            assert (counts[b] - 1) / shares[b] <= (counts[a] + 1) / shares[a] + 1e-9


def test_uniform_gives_every_layer_the_same_density() -> None:
    counts = Uniform().counts(scores(), sizes(), 600)
    total = sum(sizes().values())
    assert all(abs(counts[name] - 600 * size / total) < 1 for name, size in sizes().items())


def test_balanced_gives_equal_counts_and_keeps_small_layers_dense() -> None:
    counts = Balanced().counts(scores(), sizes(), 1600)
    assert counts == {"conv1": 427, "conv2": 427, "down": 426, "fc": 320}  # (1600 − 320) / 3 each


def test_erk_follows_its_formula() -> None:
    counts = ErdosRenyiKernel().counts(scores(), sizes(), 100)
    sums = {"conv1": 25, "conv2": 54, "down": 50, "fc": 42}
    assert all(abs(counts[name] - 100 * part / 171) < 1 for name, part in sums.items())


def test_global_is_one_threshold_with_ties_by_layer_then_index() -> None:
    same = {"a": torch.zeros(3), "b": torch.tensor([0.0, 1.0])}
    assert Global().counts(same, {"a": 3, "b": 2}, 3) == {"a": 2, "b": 1}


def test_capacity_limits_a_later_cycle() -> None:
    alive = {**sizes(), "conv2": 7}
    counts = Uniform().counts(scores(), alive, 900)
    assert counts["conv2"] == 7
    assert sum(counts.values()) == 900


def test_per_layer_is_taken_at_its_word_or_refused() -> None:
    given_sparsity = (("conv1", 0.5), ("conv2", 0.9), ("down", 0.75), ("fc", 0.0))
    ideal = 216 + 461 + 128 + 320
    assert PerLayer(given_sparsity).counts(scores(), sizes(), ideal)["fc"] == 320
    with pytest.raises(SparsityError, match="make them agree"):
        PerLayer(given_sparsity).counts(scores(), sizes(), 100)
    with pytest.raises(SparsityError, match="missing or unknown: \\['fc'\\]"):
        PerLayer(given_sparsity[:3]).counts(scores(), sizes(), ideal)


def test_a_budget_above_capacity_is_refused() -> None:
    for allocation in (Uniform(), Global()):
        with pytest.raises(SparsityError, match="that may stay"):
            allocation.counts(scores(), sizes(), sum(sizes().values()) + 1)


def test_n_of_m_keeps_the_best_of_every_group_of_inputs() -> None:
    score = torch.tensor([[4.0, 1.0, 3.0, 2.0, 5.0, 5.0, 5.0, 5.0]])
    assert NofM(2, 4).masks({"fc": score}, 4)["fc"].tolist() == [[1, 0, 1, 0, 1, 1, 0, 0]]  # ties by index
    masks = NofM(1, 4).masks(scores(), 432 + 4608 // 4 + 512 // 4 + 320 // 4)
    assert masks["conv1"].all(), "3 input channels cannot be divided by 4: dense"
    groups = masks["conv2"].reshape(32, 4, 4, 3, 3).sum(2)
    assert (groups == 1).all()


def test_n_of_m_says_which_sparsity_it_gives() -> None:
    with pytest.raises(SparsityError, match=r"2:4 keeps 3152 of these 5872 weights, .* ask for sparsity=0\.463"):
        NofM().masks(scores(), 587)
    with pytest.raises(SparsityError, match="1 <= n < m"):
        NofM(4, 4)
