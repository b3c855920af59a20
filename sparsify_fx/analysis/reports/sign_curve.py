"""sign-curve: how many signs differ from the initial and from the final ones while training goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparsify_fx.analysis.base import ANALYSES, Analysis, Findings, Options
from sparsify_fx.analysis.runs import Run
from sparsify_fx.analysis.signs import sign_flips
from sparsify_fx.figures import legend, panels, styles_of
from sparsify_fx.tables.fitting import Grid, Value

LEAST = 3


def lacks(run: Run) -> str | None:
    """Runs that keep fewer than three states lack points; the remedy names epochs that fit the run."""
    states = set(run.epochs) | set(run.cycle_ends.values())
    if len(states) >= LEAST:
        return None
    # 0 and 1 besides the quarters, so that the curve begins where training does.
    epochs = sorted(
        {0, 1, *(max(1, run.config.epochs * part // 4) for part in (1, 2, 3, 4))}
    )
    return (
        f"keeps {len(states)} of its states on the way and a curve needs {LEAST}; "
        f"train with --set 'snapshots_at={epochs}'"
    )


def report(runs: Sequence[Run], options: Options) -> Findings:
    """Every run's signs at each kept state, among the weights that the final mask keeps."""
    found = {run.label: curve(run) for run in runs}
    rows: list[tuple[Value, ...]] = []
    for label, points in found.items():
        rows += [(label, *point) for point in points]
    columns = ("run", "epoch", "differ from init", "differ from end")
    return Findings(
        grids=(
            Grid(
                "share of signs, among the weights kept at the end",
                columns,
                tuple(rows),
            ),
        ),
        figures={"sign-curve": lambda figure: draw(found, figure)},
        data={
            label: [
                dict(zip(("epoch", "from_init", "from_end"), point, strict=True))
                for point in points
            ]
            for label, points in found.items()
        },
    )


def curve(run: Run) -> list[tuple[int, float, float]]:
    """(epoch, share that differs from the initial sign, share that differs from the final sign)."""
    # The final mask at every point: with each point's own, the curve would show pruning too.
    mask, first, last = run.final_masks(), run.initial, run.final
    return [
        (
            epoch,
            sign_flips(first, state, mask).share,
            sign_flips(state, last, mask).share,
        )
        for epoch, state in run.points().items()
    ]


def draw(found: dict[str, list[tuple[int, float, float]]], figure: Any) -> None:
    """Two panels: away from the start, towards the end."""
    both, styles = panels(figure, 2, sharey=True), styles_of(found)
    for axes, column, title in zip(
        both,
        (1, 2),
        ("differ from the initial sign", "differ from the final sign"),
        strict=True,
    ):
        for label, points in found.items():
            axes.plot(
                [point[0] for point in points],
                [point[column] for point in points],
                label=label,
                **styles[label],
            )
        axes.set(xlabel="epoch", title=title)
        axes.grid(alpha=0.3)
    both[0].set_ylabel("share of kept weights")
    legend(figure, both[0])


ANALYSES.add(
    "sign-curve",
    Analysis(
        "sign-curve",
        "Signs that differ from the initial and from the final ones, by epoch.",
        "[Gadhikar 2025], Fig. 5a",
        report,
        lacks,
    ),
)
