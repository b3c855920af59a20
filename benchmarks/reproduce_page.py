"""The pages docs/reproduce.md and docs/results/reproduce.md, out of the catalog and of docs/results/reproduce.

python -m benchmarks.reproduce_kept     # the results
python -m benchmarks.reproduce_page
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from benchmarks.reproduce_results import kept, results_page, sentence
from sparsify_fx.reproduce import Figure, figures
from sparsify_fx.reproduce.catalog import PAPERS
from sparsify_fx.reproduce.plans import LABELS, plan_of
from sparsify_fx.train import load_config

DOCS = Path(__file__).parents[1] / "docs"
PAGE_FILE, RESULTS_FILE = DOCS / "reproduce.md", DOCS / "results/reproduce.md"
KINDS = {
    "sweep": "trained by a sweep, at all three scales",
    "lab": "made by an experiment of the [laboratory](lab.md)",
    "settings": "hyperparameters, compared with our recipes",
    "drawing": "a drawing without numbers, with nothing to run",
}
INTRODUCTION = """# Figures and tables of the papers

`sparsify-fx reproduce KEY FIGURE --scale full|cpu|tiny` makes a figure or table of the four papers that this library
began with, and puts the paper's numbers beside ours.

    sparsify-fx reproduce                                            # all there are
    sparsify-fx reproduce gadhikar2025 table3 --scale cpu            # both parts of Table 3
    sparsify-fx reproduce gadhikar2024 fig2-d --scale full --set data=imagefolder:/data/tiny-imagenet-200
    sparsify-fx reproduce jacobs2025 fig4 --scale full --write-only  # the sweep's file alone

"""
OUTPUT = """
A figure that is trained is a [sweep](sweeps.md). Its file is written first, so `sparsify-fx sweep` (with `--ray` on a
cluster) and `compare` take it too; the same command goes on where it was stopped, and figures share trials that are
the same training. Into `--out` go the figure in the paper's form, with the paper's numbers as empty markers; a table
of both sides as Markdown, CSV and JSON; and a sentence on what agrees: the orders that the paper claims, the orders
between its numbers, and, at full scale, how far ours lie from them. `--set KEY=VALUE` changes a key of the recipe for
all trials, such as the place of the data.

Data are looked for before anything is trained, and an error names each that is missing and where it was expected.
CIFAR and MNIST are downloaded; ImageNet and Tiny ImageNet are expected as image folders in `data/imagenet` and
`data/tiny-imagenet`.

The laboratory has two sizes: `full`, and its default for `cpu` and `tiny` (half a minute to six minutes of one core).

Numbers are those in our copies of the papers, which have tables and text, but no curves: figures are known by their
captions and by what the text says of them. [Our numbers beside them](results/reproduce.md), where a result is kept by
`python -m benchmarks.reproduce_kept`. Each figure is a file in `sparsify_fx/zoo/recipes/reproduce/KEY`; this page is
made from them by `python -m benchmarks.reproduce_page`.
"""


def page() -> str:
    """The whole page."""
    every = figures()
    parts = [INTRODUCTION]
    parts += [f"- `{scale}`: {told}\n" for scale, told in reversed(LABELS.items())]
    parts += [OUTPUT, _counted(every)]
    for key, cited in PAPERS.items():
        of_paper = [figure for figure in every if figure.key == key]
        parts += [f"\n## {cited}\n\n", _table(of_paper)]
        reasons = [f"- {one.told}: {one.reason}\n" for one in of_paper if one.reason]
        if reasons:
            parts += ["\nOther than in the paper:\n\n", *reasons]
    return "".join(parts)


def _counted(every: tuple[Figure, ...]) -> str:
    """How many figures and tables there are, by the way they are made; those of several parts by each."""
    numbers = {(one.key, one.number) for one in every}
    drawn = sum(number.startswith("fig") for _, number in numbers)
    kinds = Counter(
        kind for kind, _ in {(one.kind, (one.key, one.number)) for one in every}
    )
    lines = [f"| {KINDS[kind]} | {kinds[kind]} |\n" for kind in KINDS]
    return (
        f"\n{len(numbers)} in all: {drawn} figures and {len(numbers) - drawn} tables, in {len(every)} files. A figure "
        "with parts of two kinds counts in both rows.\n\n| how | figures and tables |\n|---|---|\n"
        + "".join(lines)
    )


def _table(of_paper: list[Figure]) -> str:
    columns = "what it shows | made by | data at `full` | the paper's numbers | status"
    head = f"| `sparsify-fx reproduce` … | {columns} |\n|---|---|---|---|---|---|\n"
    rows = [
        f"| `{one.key} {one.name}` | {one.title.removesuffix('.')}. {one.shows} | {_made_by(one)} | {_data(one)} "
        f"| {_numbers(one)} | {_status(one)} |\n"
        for one in of_paper
    ]
    return head + "".join(row.replace("|a_i|", "abs(a_i)") for row in rows)


def _made_by(one: Figure) -> str:
    if one.kind == "lab":
        return ", ".join(f"[`lab {name}`](lab.md#{name})" for name in one.lab)
    if one.kind == "sweep":
        return f"sweep, {one.measure}"
    return one.kind


def _data(one: Figure) -> str:
    if one.kind != "sweep":
        return "–"
    recipes = plan_of(one, "full")["recipe"]
    listed = [recipes] if isinstance(recipes, str) else recipes
    return ", ".join(dict.fromkeys(load_config(name).data for name in listed))


def _numbers(one: Figure) -> str:
    count = len(one.points()) + sum(len(row.paper) for row in one.rows)
    told = [f"{count} numbers"] if count else []
    if one.claims:
        told.append(f"{len(one.claims)} claims")
    return ", ".join(told) or "none"


def _status(one: Figure) -> str:
    """What can be run, and the sentences of runs whose results are kept."""
    if one.kind == "drawing":
        return "nothing to run"
    place = f"results/reproduce.md#{one.key}-{one.name}"
    # What agrees at `tiny` does so by chance: there the status is that it can be made.
    told = [
        f"[`{scale}`]({place}): {'made' if scale == 'tiny' else sentence(content)}"
        for scale, content in kept(one).items()
    ]
    return "; ".join(told) or "runs; no result kept yet"


if __name__ == "__main__":
    PAGE_FILE.write_text(page(), encoding="utf-8")
    RESULTS_FILE.write_text(results_page(), encoding="utf-8")
