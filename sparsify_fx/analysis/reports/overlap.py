"""overlap: what the final masks of two runs have in common, against chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

from sparsify_fx.analysis.base import ANALYSES, Analysis, Findings, Options, flatten
from sparsify_fx.analysis.overlap import Overlap, mask_overlap, total_overlap
from sparsify_fx.analysis.runs import Run
from sparsify_fx.checkpoints.run_files import mask_key
from sparsify_fx.figures import legend, name_layers, panels, styles_of
from sparsify_fx.tables.fitting import Grid

Pairs = dict[str, dict[str, Overlap]]


def lacks(run: Run) -> str | None:
    """Runs of methods without masks lack them."""
    # Asked of the state and not of the method: all ones would otherwise stand in for masks.
    masked = any(mask_key(name) in run.final for name in run.weights)
    return None if masked else "has no masks; give a run of a sparse method"


def report(runs: Sequence[Run], options: Options) -> Findings:
    """Every pair of runs: in total and by layer, with what chance would give."""
    found = {
        f"{a.label} & {b.label}": mask_overlap(a.final_masks(), b.final_masks())
        for a, b in combinations(runs, 2)
    }
    # Summed counts and not the mean of ratios: a small layer counts for its few weights.
    totals = {pair: total_overlap(layers.values()) for pair, layers in found.items()}
    return Findings(
        grids=(
            Grid(
                "masks at the end: intersection over union",
                (
                    "runs",
                    "kept by first",
                    "by second",
                    "by both",
                    "IoU",
                    "IoU by chance",
                ),
                tuple(
                    (pair, one.kept_a, one.kept_b, one.both, one.iou, one.chance_iou)
                    for pair, one in totals.items()
                ),
            ),
            _by_layer(found),
        ),
        figures={"overlap": lambda figure: draw(found, figure)},
        data={
            pair: {
                name: {**asdict(one), "iou": one.iou, "chance_iou": one.chance_iou}
                for name, one in layers.items()
            }
            for pair, layers in found.items()
        },
        notes=("by chance: independent masks that keep as many weights in each layer",),
    )


def draw(found: Pairs, figure: Any) -> None:
    """Filled: measured; open and dotted: by chance."""
    (axes,), styles = panels(figure), styles_of(found)
    for pair, layers in found.items():
        every = [*layers.values(), total_overlap(layers.values())]
        style = styles[pair]
        axes.plot([one.iou for one in every], label=pair, **style)
        # In the color of its run, so that a line finds its own chance.
        axes.plot(
            [one.chance_iou for one in every],
            label=f"{pair}, by chance",
            **{**style, "linestyle": ":", "markerfacecolor": "white"},
        )
    # The pairs are of one model (`alike`), so that the first names the layers of all.
    name_layers(axes, [*next(iter(found.values())), "all layers"])
    axes.set(
        ylabel="intersection over union",
        title="mask overlap",
        ylim=(0, 1.02),
    )
    axes.grid(alpha=0.3)
    legend(figure, axes, columns=2)


def _by_layer(found: Pairs) -> Grid:
    rows = tuple(
        (pair, name, one.iou, one.chance_iou) for pair, name, one in flatten(found)
    )
    return Grid("the same by layer", ("runs", "layer", "IoU", "IoU by chance"), rows)


ANALYSES.add(
    "overlap",
    Analysis(
        "overlap",
        "Intersection over union of the masks of two runs, by layer and in total, against chance.",
        "[Gadhikar 2024], section 3 (masks of LRR and IMP)",
        report,
        lacks,
        least=2,
        alike=True,
    ),
)
