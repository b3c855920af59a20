"""What the tests of several rooms share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

SWEEP = pytest.mark.sweep


def swept(values: Iterable[Any]) -> list[Any]:
    """Parameters that `pytest -m sweep` alone runs; tuples are several."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=SWEEP)
        for value in values
    ]


def every_third(ones: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    """Every pair; a third of them, spread evenly, always run, the others are swept."""
    return [
        pytest.param(
            one,
            other,
            id=f"{one}-{other}",
            marks=SWEEP if (row + column) % 3 else (),
        )
        for row, one in enumerate(ones)
        for column, other in enumerate(others)
    ]


def crossed(ones: Sequence[Any], others: Sequence[Any], few: int) -> list[Any]:
    """Every pair; each of the first `few` others always runs with one of the ones, in turn; the rest are swept."""
    always = {(position % len(ones), position) for position in range(few)}
    return [
        pytest.param(one, other, marks=() if (row, column) in always else SWEEP)
        for row, one in enumerate(ones)
        for column, other in enumerate(others)
    ]
