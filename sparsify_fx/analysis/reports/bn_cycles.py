"""bn-cycles: the scales of batch norm at the end of each prune/retrain cycle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from sparsify_fx.analysis.base import ANALYSES, Analysis, Findings, Options
from sparsify_fx.analysis.batch_norm import SMALL, Scales, describe_scales, scale_names
from sparsify_fx.analysis.reports import bn_scales, sign_cycles
from sparsify_fx.analysis.runs import Run
from sparsify_fx.figures import legend, panels, styles_of
from sparsify_fx.masks import nonzeros
from sparsify_fx.tables.fitting import Grid, Value


@dataclass(frozen=True)
class Cycle:
    """The scales of all layers together, of their sizes |γ|, and layer by layer, of γ, at the end of a cycle."""

    sparsity: float
    sizes: Scales
    layers: dict[str, Scales]


def lacks(run: Run) -> str | None:
    """A batch norm, or two cycles."""
    return sign_cycles.lacks(run) or bn_scales.lacks(run)


def measure(run: Run) -> dict[int, Cycle]:
    """The scales at the end of each cycle that the folder keeps."""
    names, found = scale_names(run.session.model), {}
    for cycle in run.cycles:
        state = run.at_cycle(cycle)
        masks = run.masks(state)
        total = sum(mask.numel() for mask in masks.values())
        # In float32: half precision has no quantiles.
        scales = {name: state[name].float() for name in names}
        together = torch.cat([one.abs().flatten() for one in scales.values()])
        found[cycle] = Cycle(
            1 - nonzeros(masks) / total,
            describe_scales(together),
            {name: describe_scales(one) for name, one in scales.items()},
        )
    return found


def report(runs: Sequence[Run], options: Options) -> Findings:
    """Every run with cycles and batch norm."""
    found = {run.label: measure(run) for run in runs}
    rows: list[tuple[Value, ...]] = []
    for label, cycles in found.items():
        for number, one in cycles.items():
            middle = one.sizes.quantiles[1:4]
            share = one.sizes.vanished / one.sizes.channels
            rows.append((label, number, one.sparsity, *middle, share))
    columns = ("run", "cycle", "sparsity", "1/4", "median", "3/4", f"below {SMALL:g}")
    return Findings(
        grids=(
            Grid("size of the scales of batch norm by cycle", columns, tuple(rows)),
        ),
        figures={"bn-cycles": lambda figure: draw(found, figure)},
        data={
            label: {str(number): asdict(one) for number, one in cycles.items()}
            for label, cycles in found.items()
        },
    )


def draw(found: dict[str, dict[int, Cycle]], figure: Any) -> None:
    """Median and quartiles of |γ|, and the share that vanished, by sparsity."""
    (sizes, gone), styles = panels(figure, 2), styles_of(found)
    for label, cycles in found.items():
        x = [one.sparsity for one in cycles.values()]
        low, middle, high = (
            [one.sizes.quantiles[place] for one in cycles.values()]
            for place in (1, 2, 3)
        )
        sizes.plot(x, middle, label=label, **styles[label])
        shade = {"color": styles[label]["color"], "alpha": 0.15, "linewidth": 0}
        sizes.fill_between(x, low, high, **shade)
        shares = [one.sizes.vanished / one.sizes.channels for one in cycles.values()]
        gone.plot(x, shares, label=label, **styles[label])
    sizes.set(xlabel="sparsity", ylabel="|γ|", title="median and quartiles")
    gone.set(xlabel="sparsity", ylabel="share", title=f"|γ| below {SMALL:g}")
    for axes in (sizes, gone):
        axes.grid(alpha=0.3)
    legend(figure, sizes)


ANALYSES.add(
    "bn-cycles",
    Analysis(
        "bn-cycles",
        "Size of the scales of batch norm at the end of each cycle.",
        "[Gadhikar 2024], Figs. 10 and 11, there at one sparsity",
        report,
        lacks,
    ),
)
