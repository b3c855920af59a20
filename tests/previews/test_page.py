"""The page docs/before_training.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sparsify_fx.budgets import met_by

PAGE = Path(__file__).parents[2] / "docs/before_training.md"


def test_the_page_runs() -> None:
    known: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), known)
    assert met_by(known["model"])[0].expected <= 100_000
