"""What a laboratory experiment is, and the table of all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from sparsify_fx.registry import Registry
from sparsify_fx.tables.fitting import Draw, Grid


@dataclass(frozen=True)
class Check:
    """A claim of the paper, what was measured, and whether the claim held here."""

    claim: str
    measured: str
    holds: bool


@dataclass(frozen=True)
class Findings:
    """What an experiment found.

    Attributes:
        data: further numbers, of types that json.dumps takes.
        figures: how to draw each, by file name stem.
    """

    grids: tuple[Grid, ...]
    checks: tuple[Check, ...]
    # Callbacks, not figures: an experiment runs, and its tests too, without matplotlib.
    figures: dict[str, Draw]
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()
    data: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the figures, as types that json.dumps takes."""
        return {
            "settings": self.settings,
            "tables": [asdict(grid) for grid in self.grids],
            "checks": [asdict(check) for check in self.checks],
            "notes": list(self.notes),
            "data": self.data,
        }


@dataclass(frozen=True)
class Experiment:
    """A small experiment of a paper.

    Args:
        name: as `sparsify-fx lab NAME` takes it.
        paper: which, and its figures, tables and theorems.
        claim: in one sentence.
        run: called with `full` (the paper's exact size) and `seed`.
    """

    name: str
    paper: str
    claim: str
    run: Callable[[bool, int], Findings]


EXPERIMENTS: Registry[Experiment] = Registry("experiment")


def experiment(
    name: str, *, paper: str, claim: str
) -> Callable[[Callable[[bool, int], Findings]], Experiment]:
    """Decorator: register a function of (full, seed) as an experiment."""
    # The name then holds the Experiment, whose `run` is the function: found by name and by import alike.
    return lambda run: EXPERIMENTS.add(name, Experiment(name, paper, claim, run))
