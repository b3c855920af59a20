"""Tables of the laboratory: docs/results/lab/NAME.json, the page docs/results/lab.md, and the tables in docs/lab.md.

    python -m benchmarks.lab_tables --run sample-complexity imp-lenet5   # run, keep numbers and pictures, write
    python -m benchmarks.lab_tables --take FOLDER --run imp-lenet5       # of what `sparsify-fx lab --out FOLDER` wrote
    python -m benchmarks.lab_tables                                      # write the pages again

In docs/lab.md a table stands between `<!-- NAME: TITLE -->`, the beginning of its title, and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sparsify_fx.lab import run_experiment

DOCS = Path(__file__).parents[1] / "docs"
RESULTS, PICTURES = DOCS / "results/lab", DOCS / "lab"
LAB_FILE, PAGE_FILE = DOCS / "lab.md", DOCS / "results/lab.md"
HEAD = """# The laboratory, measured

What [the experiments](../lab.md) print, at their default size, seed 0, on one thread: their tables and, claim by
claim, what was measured. Written by `python -m benchmarks.lab_tables`; raw: `docs/results/lab`.
"""
_BLOCK = re.compile(r"(<!-- ([a-z0-9-]+): (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def keep(folder: Path, names: Sequence[str]) -> None:
    """Take the numbers and pictures of these experiments from a folder."""
    for name in names:
        content = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        for picture in map(Path, content.pop("figures")):
            shutil.copyfile(folder / picture.name, PICTURES / picture.name)
        RESULTS.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")


def kept() -> dict[str, dict[str, Any]]:
    """All results, by experiment."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(RESULTS.glob("*.json"))
    }


def page() -> str:
    """The whole page of results."""
    parts = [HEAD]
    for name, content in kept().items():
        parts.append(f"\n## {name}\n\n{content['paper']}.\n")
        for table in content["tables"]:
            parts.append(f"\n**{table['title']}**\n\n{_table(table)}")
        rows = [
            (check["claim"], check["measured"], "yes" if check["holds"] else "no")
            for check in content["checks"]
        ]
        told = {"columns": ("claim", "measured", "holds"), "rows": rows}
        parts.append(f"\n{_table(told)}")
        parts += [f"\n{note}\n" for note in content["notes"]]
    return "".join(parts)


def filled(text: str) -> str:
    """docs/lab.md with its tables; KeyError that names a table which no result has."""
    results = kept()

    def table(match: re.Match[str]) -> str:
        begin, name, title, end = match.groups()
        for one in results[name]["tables"]:
            if one["title"].startswith(title):
                return f"{begin}{_table(one)}{end}"
        raise KeyError(f"{name} has no table that begins with {title!r}")

    return _BLOCK.sub(table, text)


def _table(content: dict[str, Any]) -> str:
    lines = [_row(content["columns"]), _row(["---"] * len(content["columns"]))]
    return "\n".join([*lines, *map(_row, content["rows"])]) + "\n"


def _row(cells: Sequence[Any]) -> str:
    told = [f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in told)} |"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--run", nargs="*", metavar="NAME", default=())
    parser.add_argument("--take", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for name in () if given.take else given.run:
            run_experiment(name, folder, dpi=110)
        keep(given.take or Path(folder), given.run)
    if kept():
        PAGE_FILE.write_text(page(), encoding="utf-8")
    LAB_FILE.write_text(filled(LAB_FILE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
