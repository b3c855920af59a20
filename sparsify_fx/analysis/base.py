"""What an analysis of runs is, what it finds, and the table of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from sparsify_fx.analysis.runs import Run
from sparsify_fx.registry import Registry
from sparsify_fx.tables.fitting import Draw, Grid

Inner = TypeVar("Inner")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Findings:
    """What an analysis found.

    Attributes:
        data: all numbers, of types that json.dumps takes.
        figures: how to draw each, by file name stem.
    """

    grids: tuple[Grid, ...]
    figures: dict[str, Draw]
    data: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Everything but the figures, as types that json.dumps takes."""
        return {
            "settings": self.settings,
            "tables": [asdict(grid) for grid in self.grids],
            "notes": list(self.notes),
            "data": self.data,
        }


@dataclass(frozen=True)
class Options:
    """What the analyses that compute on data take.

    Attributes:
        samples: training images, without augmentation; the first ones of the order that `seed` gives.
        seed: of that order, of start vectors and probes.
        iterations: most Lanczos steps for an eigenvalue; tolerance: its relative residual.
        probes: random vectors of the trace.
        points: networks on the line between two runs, ends included.
    """

    samples: int = 1000
    seed: int = 0
    iterations: int = 50
    tolerance: float = 1e-2
    probes: int = 20
    points: int = 11


def flatten(
    found: Mapping[str, Mapping[Inner, Value]],
) -> Iterator[tuple[str, Inner, Value]]:
    """(run, layer, value) of what is kept by run and layer, in order: the rows of most tables.

    >>> list(flatten({"lrr": {"fc1": 1, "fc2": 2}}))
    [('lrr', 'fc1', 1), ('lrr', 'fc2', 2)]
    """
    for outer, values in found.items():
        for inner, value in values.items():
            yield outer, inner, value


def _nothing(run: Run) -> str | None:
    return None


def _fitting(runs: Sequence[Run]) -> str | None:
    return None


@dataclass(frozen=True)
class Analysis:
    """An analysis of one or more runs.

    Attributes:
        name: as `sparsify-fx analyze --only NAME` takes it.
        summary, source: one sentence; the figure of the paper.
        run: called with the runs that lack nothing.
        lacks: what a run lacks and how to get it, or None; before any analysis is carried out.
        least: how many runs it takes; `alike`: of one model only.
        together: why runs of which none lacks anything cannot be taken together, or None.
    """

    name: str
    summary: str
    source: str
    run: Callable[[Sequence[Run], Options], Findings]
    lacks: Callable[[Run], str | None] = _nothing
    least: int = 1
    alike: bool = False
    together: Callable[[Sequence[Run]], str | None] = _fitting


# Filled by importing `analysis.reports`, and by plugins.
ANALYSES: Registry[Analysis] = Registry("analysis")
