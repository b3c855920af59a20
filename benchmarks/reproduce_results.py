"""The page docs/results/reproduce.md: our numbers beside the papers', of the results in docs/results/reproduce.

`python -m benchmarks.reproduce_page` writes it, with docs/reproduce.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sparsify_fx.reproduce import Figure, Point, figures
from sparsify_fx.reproduce.catalog import PAPERS
from sparsify_fx.reproduce.figure import SCALES

RESULTS = Path(__file__).parents[1] / "docs/results/reproduce"
HEAD = """# Figures and tables of the papers, measured

Results of `python -m benchmarks.reproduce_kept`, {count} in all, {minutes:.0f} minutes of one core. [What the scales
mean](../reproduce.md): at `tiny` nets of a few thousand digits train for two epochs, so its numbers show that a figure
can be made, and say nothing about the paper; at `cpu` orders can be compared. A cell gives "x: y", with the 95 %
interval over seeds where there are several. The laboratory has numbers of its own, and tells claim by claim what it
measured.
"""


def kept(figure: Figure) -> dict[str, dict[str, Any]]:
    """The results of a figure by scale, the smallest first."""
    found = {}
    for scale in SCALES:
        path = RESULTS / f"{figure.key}-{figure.name}-{scale}.json"
        if path.exists():
            found[scale] = json.loads(path.read_text(encoding="utf-8"))
    return found


def sentence(content: dict[str, Any]) -> str:
    """What agrees, without the words on the scale."""
    told: str = content["sentence"]
    before, colon, after = told.rpartition(": ")
    return after if colon and before.startswith("At ") else told


def results_page() -> str:
    """The whole page."""
    every = figures()
    contents = [content for one in every for content in kept(one).values()]
    minutes = sum(content["processor_seconds"] for content in contents) / 60
    parts = [HEAD.format(count=len(contents), minutes=minutes)]
    for key, cited in PAPERS.items():
        of_paper = [one for one in every if one.key == key and kept(one)]
        if of_paper:
            parts.append(f"\n## {cited}\n")
        for figure in of_paper:
            parts.append(f"\n### {figure.key} {figure.name}\n\n{figure.title}\n")
            for scale, content in kept(figure).items():
                parts.append(_result(figure, scale, content))
    return "".join(parts)


def _result(figure: Figure, scale: str, content: dict[str, Any]) -> str:
    """The sentence, the numbers of both sides, and the verdicts."""
    seconds = content["processor_seconds"]
    stem = f"{figure.key}-{figure.name}-{scale}"
    told = f"\n`{scale}` ({seconds:.0f} s, [raw](reproduce/{stem}.json)): {sentence(content)}\n"
    ours = [Point(*row) for row in content["ours"]]
    if ours:
        told += "\n" + _numbers(ours, figure.points(), figure)
    verdicts = content["agreement"]["verdicts"]
    # Of settings those that agree are told by the sentence: there are dozens.
    if figure.kind == "settings":
        verdicts = [verdict for verdict in verdicts if not verdict["holds"]]
    if verdicts:
        told += "\n" + _verdicts(verdicts)
    return told


def _numbers(ours: Sequence[Point], theirs: Sequence[Point], figure: Figure) -> str:
    x = figure.x
    head = f"| by {x} | ours: {figure.y} |"
    rule = "|---|---|"
    if theirs:
        head, rule = head + " the paper's |", rule + "---|"
    rows = []
    for series in dict.fromkeys(point.series for point in (*ours, *theirs)):
        cells = [series, _cell(point for point in ours if point.series == series)]
        if theirs:
            cells.append(_cell(point for point in theirs if point.series == series))
        rows.append("| " + " | ".join(_escaped(cell) for cell in cells) + " |\n")
    return f"{head}\n{rule}\n" + "".join(rows)


def _cell(points: Iterable[Point]) -> str:
    by_panel: dict[str, list[str]] = {}
    for point in points:
        half = "" if point.half is None else f" ± {point.half:.2g}"
        told = f"{point.x}: {point.y:.4g}{half}"
        by_panel.setdefault(point.panel, []).append(told)
    return "; ".join(
        (f"*{panel}* " if panel else "") + ", ".join(numbers)
        for panel, numbers in by_panel.items()
    )


def _verdicts(verdicts: Iterable[dict[str, Any]]) -> str:
    words = {True: "yes", False: "no", None: "not measured"}
    rows = [
        f"| {_escaped(v['claim'])} | {_escaped(v['measured'])} | {words[v['holds']]} |\n"
        for v in verdicts
    ]
    return "| claim | measured | holds |\n|---|---|---|\n" + "".join(rows)


def _escaped(text: str) -> str:
    """Bars would end a cell, dollars begin a formula."""
    return text.replace("|", "\\|").replace("$", "\\$")
