"""The code of docs/handing_on.md runs, in the order of the page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs/handing_on.md"


def test_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    known: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 4
    for number, block in enumerate(blocks):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), known)
    fits, blocky, quantized = capsys.readouterr().out.splitlines()
    assert fits == "2 layers fit 2:4"
    assert blocky == "2 layers fit blocks of 32x32"
    assert quantized.startswith("2 layers quantized; 24,576 of 49,152 weights are zero")
