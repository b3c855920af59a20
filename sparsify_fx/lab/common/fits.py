"""Straight lines through the points of a figure, where an experiment claims a slope."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sparsify_fx.lab.common.statistics import fit_line


def draw_fit(
    axes: Any, xs: Sequence[float], ys: Sequence[float], color: str, name: str = ""
) -> None:
    """The line of least squares through the points, dotted, with slope and R² in the legend.

    Drawn from the first to the last point: beyond them nothing was measured.
    """
    line = fit_line(
        torch.tensor(xs, dtype=torch.float64), torch.tensor(ys, dtype=torch.float64)
    )
    ends = [min(xs), max(xs)]
    of_what = f"{name}: " if name else ""
    axes.plot(
        ends,
        [line.slope * x + line.intercept for x in ends],
        linestyle=":",
        linewidth=1.0,
        color=color,
        label=f"{of_what}slope {line.slope:.2g}, R² {line.r2:.3f}",
    )
