"""How a file says that its sparse layers were chosen, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def chosen_how(choice: Mapping[str, Any]) -> str:
    """By estimate or measurement, and for which sizes; files of earlier versions know the batch alone.

    >>> chosen_how({"by": "estimate", "batch": 1, "sizes": {"x": [1, 64]}, "sizes_from": "made up"})
    ', chosen by estimate for x [1, 64] (made up)'
    >>> chosen_how({"by": "estimate", "batch": 1})
    ', chosen by estimate for batch 1'
    """
    if not {"by", "batch"} <= choice.keys():
        return ""
    sizes, origin = choice.get("sizes"), choice.get("sizes_from", "")
    if not isinstance(sizes, Mapping) or not sizes:
        return f", chosen by {choice['by']} for batch {choice['batch']}"
    shapes = ", ".join(f"{name} {shape}" for name, shape in sizes.items())
    return f", chosen by {choice['by']} for {shapes}" + (
        f" ({origin})" if origin else ""
    )
