"""The tools that `sparsify-fx check` knows: rows of facts, a file for each trade.

To add a tool, write a `Tool` into the `ROWS` of a file here (a new file is found by itself), and a function into
`benchmarks/tool_runners.py` that runs it. `python -m benchmarks.tools --only NAME` writes what was seen to
`docs/results/tools.json`, and a test compares both.
"""

from __future__ import annotations

import importlib
import pkgutil

from sparsify_fx.onnx_export.tools.tool import Tool


def _found() -> dict[str, Tool]:
    """The rows of all files of this folder, by name."""
    rows: list[Tool] = []
    for module in sorted(each.name for each in pkgutil.iter_modules(__path__)):
        rows += getattr(importlib.import_module(f"{__name__}.{module}"), "ROWS", ())
    return {each.name: each for each in rows}


TOOLS = _found()
"""Tools by name, as `check --for NAME` takes them."""
