from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsify_fx.errors import RecipeError
from sparsify_fx.parameterizations import PARAMETERIZATIONS, Product

floats = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**60), max_value=2.0**60)


@pytest.mark.parametrize("name", list(PARAMETERIZATIONS))
@given(values=st.lists(floats, min_size=1, max_size=30))
def test_value_of_split_is_theta(name: str, values: list[float]) -> None:
    theta = torch.tensor(values, dtype=torch.float32)
    parameterization = PARAMETERIZATIONS[name]()
    parts = parameterization.split(theta)
    assert set(parts) == set(parameterization.factors)
    value = parameterization.value({**parts, **parameterization.shared(theta), **parameterization.state(theta)})
    assert ((value - theta).abs() <= parameterization.error_bound(theta)).all()


@given(st.lists(floats, min_size=1, max_size=30), st.floats(1e-3, 1e3))
def test_product_split_is_balanced(values: list[float], beta: float) -> None:
    theta = torch.tensor(values, dtype=torch.float64)
    parts = Product(beta).split(theta)
    m, w = parts["m"], parts["w"]
    assert (m > 0).all()
    assert ((m * m - w * w - beta).abs() <= 1e-14 * (m * m + w * w)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_product_split_is_close_in_every_dtype(dtype: torch.dtype) -> None:
    theta = torch.linspace(-3, 3, 101).to(dtype)
    parts = Product().split(theta)
    value = parts["m"] * parts["w"]
    assert value.dtype == dtype
    assert ((value - theta).abs().double() <= 2 * torch.finfo(dtype).eps * theta.abs().double()).all()


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan"), float("inf")])
def test_product_rejects_an_impossible_beta(beta: float) -> None:
    with pytest.raises(RecipeError, match="positive finite"):
        Product(beta)
