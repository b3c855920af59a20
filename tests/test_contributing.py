"""The example of CONTRIBUTING.md works as it is printed: one file adds a criterion and a method."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import sparsify_fx
from sparsify_fx.criteria import CRITERIA
from sparsify_fx.masks import kept_count
from sparsify_fx.recipe import METHODS, find_method
from tests.conftest import effective, small_net


def test_one_file_adds_a_criterion_and_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (CRITERIA, METHODS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(code, "distance.py", "exec"), {"__name__": "distance"})
    model = sparsify_fx.apply(small_net(), "distance+signin", sparsity=0.5)
    assert sum(int((weight != 0).sum()) for weight in effective(model).values()) == kept_count(792, 0.5)
    assert find_method("signin+distance").resolved().to_dict()["criterion"] == "distance"
