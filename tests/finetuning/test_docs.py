"""The code of docs/finetuning.md runs, in the order of the page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs/finetuning.md"


def test_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    known: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 4
    for number, block in enumerate(blocks):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), known)
    shown = capsys.readouterr().out
    assert shown.startswith("gmp: 619 of 6,192 weights stay (sparsity 0.9)"), shown
    assert 0.79 < float(shown.split()[-1]) < 0.81
