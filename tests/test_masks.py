from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsify_fx.errors import SparsityError
from sparsify_fx.masks import kept_count, nonzeros, top_mask


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=60), st.data())
def test_top_mask_keeps_the_best_and_breaks_ties_by_index(
    values: list[int], data: st.DataObject
) -> None:
    kept = data.draw(st.integers(0, len(values)))
    best = sorted(range(len(values)), key=lambda i: (-values[i], i))[:kept]
    mask = top_mask(torch.tensor(values, dtype=torch.float32), kept)
    assert mask.dtype == torch.uint8
    assert mask.nonzero().flatten().tolist() == sorted(best)


def test_top_mask_keeps_the_shape_and_takes_minus_infinity_last() -> None:
    scores = torch.tensor([[-torch.inf, 1.0], [-torch.inf, -5.0]])
    assert top_mask(scores, 2).tolist() == [[0, 1], [0, 1]]
    assert top_mask(scores, 3).tolist() == [[1, 1], [0, 1]]


def test_top_mask_rejects_nan_and_impossible_budgets() -> None:
    with pytest.raises(SparsityError, match="NaN"):
        top_mask(torch.tensor([1.0, torch.nan]), 1)
    for kept in (-1, 3):
        with pytest.raises(SparsityError, match="cannot keep"):
            top_mask(torch.ones(2), kept)


@given(st.integers(1, 10**9), st.floats(0, 0.999))
def test_kept_count_is_the_rounded_share(total: int, sparsity: float) -> None:
    if (1 - sparsity) * total < 0.5:
        with pytest.raises(SparsityError, match="keeps 0"):
            kept_count(total, sparsity)
    else:
        assert abs(kept_count(total, sparsity) - (1 - sparsity) * total) <= 0.5 + 1e-6


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan"), "0.9", True])
def test_kept_count_rejects_what_is_no_fraction(sparsity: float) -> None:
    with pytest.raises(SparsityError, match=r"\[0, 1\)"):
        kept_count(100, sparsity)


def test_kept_count_explains_per_cent() -> None:
    with pytest.raises(SparsityError, match=r"for 90 per cent write 0\.9"):
        kept_count(100, 90)


def test_nonzeros_does_not_overflow_uint8() -> None:
    assert nonzeros({"a": torch.ones(1000, dtype=torch.uint8)}) == 1000
