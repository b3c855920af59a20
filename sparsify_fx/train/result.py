"""What a training gave, as data and as a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table


@dataclass(frozen=True)
class CycleResult:
    """The end of one run (cycle), before the next pruning: accuracies in [0, 1]; nonzeros of the prunable weights."""

    run: int
    epoch: int
    density: float
    nonzeros: int
    train_accuracy: float
    test_accuracy: float


@dataclass(frozen=True)
class Result:
    """The end of a training. `seconds` adds up all sessions; `epochs` counts all cycles."""

    folder: str
    method: str
    requested_sparsity: float
    epochs: int
    weights: int
    nonzeros: int
    density: float
    loss: float
    train_accuracy: float
    test_accuracy: float
    seconds: float
    cycles: tuple[CycleResult, ...]

    @property
    def path(self) -> Path:
        """The run folder."""
        return Path(self.folder)

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        return {**asdict(self), "cycles": [asdict(cycle) for cycle in self.cycles]}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Result:
        """The result that `to_dict` described."""
        return cls(**{**content, "cycles": tuple(CycleResult(**cycle) for cycle in content["cycles"])})

    def table(self) -> Table:
        """One line per cycle."""
        table = Table(title=f"{self.method}: {self.folder}")
        for column in ("run", "epoch", "density", "non-zeros", "train", "test"):
            table.add_column(column, justify="right")
        for cycle in self.cycles:
            accuracies = (f"{cycle.train_accuracy:.4f}", f"{cycle.test_accuracy:.4f}")
            table.add_row(str(cycle.run), str(cycle.epoch), f"{cycle.density:.6g}", f"{cycle.nonzeros:,}", *accuracies)
        table.caption = f"{self.nonzeros:,} of {self.weights:,} weights; {self.epochs} epochs in {self.seconds:.1f} s"
        return table
