"""The tables of docs/results/tools.json: a wide one for docs/results/tools.md, one by encoding for docs/deployment.md.

python -m benchmarks.tools --page     # writes both anew; `python -m benchmarks.tools` does so itself
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.training_cases import machine
from sparsify_fx.onnx_export.tools.rows import TOOLS

DOCS = Path(__file__).parents[1] / "docs"
PAGE, ALL = DOCS / "deployment.md", DOCS / "results/tools.md"
MARK = "<!-- What follows is written by `python -m benchmarks.tools --page`. -->\n"

ENCODINGS = {
    "dense": "dense",
    "coo": "`coo`",
    "gap": "`gap`",
    "bitmask": "`bitmask`",
    "gap fp32-packed": "`fp32-packed`",
    "gap fp16": "`fp16`",
    "gap int8": "`int8`",
    "QDQ, gap": "8 bits, packed",
}
"""Columns of the table for those who deploy: the kind of file, and its heading."""

SPECIAL = {
    "dense, external data": "external data",
    "gap, functions": "functions",
    "gap, MaxUnpool": "MaxUnpool",
    "gap, Scan": "Scan",
    "QOperator, gap": "QOperator, packed",
    "sparse-ort": "`sparse-ort`",
}
"""Columns of the second table."""

_MEANINGS = """*works*: right outputs, and as small as before; *slow*: the weights are rebuilt in every run;
*ignored*: right, but what the tool is for did not happen to packed weights; *undone*: right, and the weights are dense
again; *refused*: an error, or a file that onnxruntime does not load; *wrong*: other outputs, and no exit code that says
so; *died*: the process ended."""

_ALL = """# Other tools, measured

Small networks at 90 % zeros in every form in which weights are stored, given to each tool; what it made of them ran in
onnxruntime. {meanings}

{names}

{tables}

Made by `python -m benchmarks.tools`. {machine} What each tool said, and the differences: `docs/results/tools.json`.
"""


def table(rows: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    """A line for each tool, and a column for each of these kinds of files."""
    lines = [_line(["tool", *columns.values()]), "|---" * (len(columns) + 1) + "|"]
    for tool, row in rows.items():
        words = [row["kinds"][kind]["outcome"] for kind in columns]
        # Bold is what a reader must not miss.
        shown = [f"**{word}**" if word in ("wrong", "died") else word for word in words]
        lines.append(_line([f"{tool} {row['version']}", *shown]))
    return "\n".join(lines)


def names(rows: Mapping[str, Any]) -> str:
    """What each tool is, and the package that it is in."""
    lines = [_line(["tool", "what it is", "package"]), "|---|---|---|"]
    for name, row in rows.items():
        tool = TOOLS[name]
        lines.append(_line([name, tool.what, f"{tool.package} {row['version']}"]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def write_page(results: Mapping[str, Any]) -> None:
    """Both pages; what stands above the mark of docs/deployment.md stays as it is."""
    rows = results["rows"]
    above = PAGE.read_text(encoding="utf-8").split(MARK)[0]
    parts = [MARK, _MEANINGS, "", table(rows, ENCODINGS), "", table(rows, SPECIAL)]
    told = f"\n{machine(results['surroundings'])} [Every kind of file](results/tools.md).\n"
    PAGE.write_text(above + "\n".join([*parts, told]), encoding="utf-8")
    kinds = list(results["kinds"])
    tables = [
        table(rows, {kind: kind for kind in kinds[at : at + 8]})
        for at in range(0, len(kinds), 8)
    ]
    page = _ALL.format(
        meanings=_MEANINGS,
        names=names(rows),
        tables="\n\n".join(tables),
        machine=machine(results["surroundings"]),
    )
    ALL.write_text(page, encoding="utf-8")
