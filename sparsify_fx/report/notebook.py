"""The report as a notebook: the same figures in cells, to go on from."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any

from sparsify_fx.report.facts import Facts

_READ = """\
from sparsify_fx.report import details_of, draw_curves, draw_density, read_facts

folders = [
{folders}
]
runs = read_facts(folders).runs"""
_TABLE = """\
[
    (run.label, run.state, run.last("density"), run.last("test_accuracy"))
    for run in runs
]"""
_CURVES = """\
from functools import partial

from matplotlib.figure import Figure

def shown(draw):
    figure = Figure(layout="constrained", dpi=150)
    draw(figure)
    return figure

shown(partial(draw_curves, runs))"""
_LAYERS = """\
details = details_of(runs[0].path)
[(layer.name, layer.kept, layer.sparsity, layer.flips) for layer in details.layers]"""


def notebook(facts: Facts) -> str:
    """A Jupyter notebook (format 4.5) of the runs: reading, table, curves, layers. Outputs come when it is run.

    The same runs give the same text.
    """
    # Absolute: a notebook is opened wherever its server was started.
    folders = [str(run.path.resolve()) for run in facts.runs]
    listed = "\n".join(f"    {folder!r}," for folder in folders)
    head = (
        f"# {len(folders)} run(s)\n\nWritten by `sparsify-fx report --notebook`. Each line of `metrics.jsonl` is in "
        "`runs[0].metrics`, each key of the configuration in `runs[0].config`."
    )
    cells = (
        ("markdown", head),
        ("code", _READ.format(folders=listed)),
        ("code", _TABLE),
        ("code", _CURVES),
        ("code", "shown(partial(draw_density, runs))"),
        ("markdown", "Layers and signs need the checkpoint, events the data set too."),
        ("code", _LAYERS),
    )
    content = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {
            "kernelspec": {
                "name": "python3",
                "display_name": "Python 3",
                "language": "python",
            },
            "language_info": {"name": "python"},
        },
        "cells": [_cell(kind, text) for kind, text in cells],
    }
    return json.dumps(content, indent=1) + "\n"


def _cell(kind: str, text: str) -> dict[str, Any]:
    # Ids are wanted since format 4.5; from the text, so that they do not change.
    name = blake2b(text.encode(), digest_size=6).hexdigest()
    cell = {"cell_type": kind, "id": name, "metadata": {}, "source": text}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})
