"""The real digits, read once."""

from __future__ import annotations

import pytest

from sparsify_fx.zoo.data import Data, load_data


@pytest.fixture(scope="session")
def mnist() -> Data:
    return load_data("mnist5k")
