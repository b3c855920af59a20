"""Figures for the pages, out of docs/results: `{{ gmp_98 }}` is the accuracy of gmp at sparsity 0.98. None is typed."""

from __future__ import annotations

import re
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"


def accuracies() -> dict[str, str]:
    """Mean ± interval by method and sparsity, of the table in methods_mnist5k.md, whose footnotes stay there."""
    found = {}
    page = (RESULTS / "methods_mnist5k.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if line.startswith("|") and "---" not in line
    ]
    sparsities = [cell.removeprefix("s = 0.") for cell in rows[0][1:]]
    for method, *cells in rows[1:]:
        name = re.sub(r"\W", "_", method)
        for sparsity, cell in zip(sparsities, cells, strict=True):
            found[f"{name}_{sparsity}"] = cell.removesuffix(" †")
    return found
