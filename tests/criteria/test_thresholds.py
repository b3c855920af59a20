from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsify_fx import numerics as thresholds
from sparsify_fx.allocations import Global
from sparsify_fx.criteria import FunctionCriterion, PruningContext
from sparsify_fx.criteria.choosing import choose_masks
from sparsify_fx.errors import SparsityError
from sparsify_fx.masks import nonzeros, top_mask, top_masks

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
VALUES = st.one_of(
    st.integers(-3, 3).map(float),
    st.floats(-1e4, 1e4),
    st.sampled_from([-math.inf, math.inf, 0.0]),
)
LAYER = st.tuples(st.lists(VALUES, min_size=0, max_size=40), st.sampled_from(DTYPES))


def by_sorting(scores: dict[str, torch.Tensor], kept: int) -> dict[str, list[int]]:
    """What one stable sort of everything keeps: the highest first, among equal ones the earlier."""
    entries = [
        (name, i, value)
        for name, score in scores.items()
        for i, value in enumerate(score.flatten().tolist())
    ]
    best = sorted(range(len(entries)), key=lambda at: (-entries[at][2], at))[:kept]
    masks = {name: [0] * score.numel() for name, score in scores.items()}
    for at in best:
        name, i, _ = entries[at]
        masks[name][i] = 1
    return masks


def flat(masks: dict[str, torch.Tensor]) -> dict[str, list[int]]:
    return {name: mask.flatten().tolist() for name, mask in masks.items()}


@pytest.fixture
def sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors go the way of large ones, in several chunks, with a guess that often fails."""
    monkeypatch.setattr(thresholds, "_SMALL", 4)
    monkeypatch.setattr(thresholds, "_SAMPLE", 12)
    monkeypatch.setattr(thresholds, "_CHUNK", 7)
    monkeypatch.setattr(thresholds, "_SLACK", 0.5)


@settings(max_examples=300)
@given(st.lists(LAYER, min_size=1, max_size=5), st.data())
def test_masks_are_those_of_a_stable_sort(
    layers: list[tuple[list[float], torch.dtype]], data: st.DataObject
) -> None:
    scores = {
        str(i): torch.tensor(values, dtype=dtype)
        for i, (values, dtype) in enumerate(layers)
    }
    kept = data.draw(st.integers(0, sum(score.numel() for score in scores.values())))
    assert flat(top_masks(scores, kept)) == by_sorting(scores, kept)


@settings(max_examples=300)
@given(st.integers(0, 10**6), st.integers(1, 400), st.integers(1, 60), st.data())
def test_the_way_of_large_tensors_gives_the_same(
    seed: int, size: int, distinct: int, data: st.DataObject
) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = (
        torch.randint(-distinct, distinct, (size,), generator=generator).float() / 3
    )
    values[torch.rand(size, generator=generator) < 0.2] = -math.inf
    cut = data.draw(st.integers(0, size))
    scores = {"a": values[:cut].clone(), "b": values[cut:].clone()}
    kept = data.draw(st.integers(0, size))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "_SMALL": 4,
            "_SAMPLE": 12,
            "_CHUNK": 7,
            "_SLACK": 0.5,
        }.items():
            patch.setattr(thresholds, name, value)
        assert flat(top_masks(scores, kept)) == by_sorting(scores, kept)


@pytest.mark.slow
@pytest.mark.parametrize("share", [1e-6, 0.01, 0.1, 0.5, 0.9, 0.999999])
@pytest.mark.parametrize(
    "kind", ["normal", "few values", "constant", "pruned", "sorted", "periodic"]
)
def test_large_tensors_as_they_come(kind: str, share: float) -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(700_001, generator=generator)
    values = {
        "normal": values,
        "few values": values.round(),
        "constant": torch.full_like(values, 0.25),
        "pruned": values.masked_fill(
            torch.rand(len(values), generator=generator) < 0.9, -math.inf
        ),
        "sorted": values.sort().values,
        "periodic": torch.arange(len(values)).remainder(64).float(),
    }[kind]
    kept = max(1, round(share * len(values)))
    order = values.sort(descending=True, stable=True).indices
    expected = torch.zeros(len(values), dtype=torch.uint8)
    expected[order[:kept]] = 1
    assert torch.equal(top_mask(values.reshape(-1, 1), kept).flatten(), expected)
    layers = dict(zip("abc", values.split([100, 600_000, 99_901]), strict=True))
    assert torch.equal(torch.cat(list(top_masks(layers, kept).values())), expected)


def test_memory_layouts_and_integers_keep_the_order_of_indices() -> None:
    scores = torch.randint(0, 4, (3, 4, 5, 5)).to(memory_format=torch.channels_last)
    for kept in (1, 50, 299):
        expected = top_mask(scores.contiguous().double(), kept)
        assert torch.equal(top_mask(scores, kept), expected)
        assert torch.equal(top_mask(scores.float(), kept), expected)


def test_a_wider_dtype_is_not_rounded_to_a_narrower_one() -> None:
    scores = {
        "a": torch.tensor([1.0]),
        "b": torch.tensor([1.0 + 1e-12], dtype=torch.float64),
    }
    assert flat(top_masks(scores, 1)) == {"a": [0], "b": [1]}


def test_nan_anywhere_is_refused_before_anything_is_chosen(sampling: None) -> None:
    scores = {"a": torch.ones(5), "b": torch.tensor([1.0, math.nan, 2.0])}
    for kept in (0, 1, 8):
        with pytest.raises(SparsityError, match="NaN"):
            top_masks(scores, kept)


def test_what_is_pruned_stays_so_even_where_living_weights_score_minus_infinity() -> (
    None
):
    weights = {"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([4.0, 5.0])}
    lowest = FunctionCriterion(
        "lowest",
        lambda context: {n: torch.full_like(w, -math.inf) for n, w in weights.items()},
    )
    alive = {
        "a": torch.tensor([0, 1, 0], dtype=torch.uint8),
        "b": torch.tensor([0, 1], dtype=torch.uint8),
    }
    masks = choose_masks(
        lowest, PruningContext(weights, torch.Generator(), 2, Global(), alive=alive)
    )
    assert flat(masks) == flat(alive)
    assert nonzeros(masks) == 2
