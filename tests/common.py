"""What the tests of several rooms share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def swept(values: Iterable[Any]) -> list[Any]:
    """Parameters that `pytest -m sweep` alone runs."""
    return [pytest.param(value, marks=pytest.mark.sweep) for value in values]
