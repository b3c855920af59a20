"""What the tests of several rooms share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

SWEEP = pytest.mark.sweep


def swept(values: Iterable[Any]) -> list[Any]:
    """Parameters that `pytest -m sweep` alone runs; tuples are several."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=SWEEP)
        for value in values
    ]
