"""What a training gave, as data and as a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from sparsify_fx.errors import CheckpointError
from sparsify_fx.tables.fitting import FittingTable
from sparsify_fx.tables.shown import Shown
from sparsify_fx.train.provenance import Provenance

T = TypeVar("T")
# Made once, for building one takes longer than using it: a thousand lines of metrics need the same.
_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


@dataclass(frozen=True)
class CycleResult:
    """The end of one run (cycle), before the next pruning: accuracies in [0, 1]; nonzeros of the prunable weights."""

    run: int
    epoch: int
    density: float
    nonzeros: int
    train_accuracy: float
    test_accuracy: float
    validation_accuracy: float | None = None
    average_test_accuracy: float | None = None


@dataclass(frozen=True, repr=False)
class Result(Shown):
    """The end of a training. `seconds` and `checkpoint_seconds` add up all sessions, the one without the other;
    `epochs` counts all cycles; `notes`: remarks; `provenance`: model, data, seed, versions, commit, empty in results
    that an older version wrote; `validation_accuracy` and `average_test_accuracy` (of the average of the weights) are
    None without; so are `best_...`, the epoch that was chosen by the validation and its accuracies.
    """

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
    notes: tuple[str, ...] = ()
    checkpoint_seconds: float = 0.0
    provenance: Provenance = field(default_factory=Provenance)
    validation_accuracy: float | None = None
    average_test_accuracy: float | None = None
    best_epoch: int | None = None
    best_validation_accuracy: float | None = None
    best_test_accuracy: float | None = None

    def headline(self) -> str:
        """Method, weights and accuracy."""
        return (
            f"{self.method}, {self.nonzeros:,} of {self.weights:,} weights, test accuracy {self.test_accuracy:.4f}, "
            f"{self.epochs} epochs, {self.folder}"
        )

    @property
    def path(self) -> Path:
        """The run folder, as a path."""
        return Path(self.folder)

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        plain = asdict(self)
        return {**plain, "cycles": list(plain["cycles"]), "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, content: Any) -> Result:
        """The result that `to_dict` described; CheckpointError for anything else."""
        return from_plain(cls, content, "result")

    def table(self) -> FittingTable:
        """One line per cycle."""
        table = FittingTable(title=f"{self.method}: {self.folder}")
        # Columns of what this run has no numbers for are left out.
        further = {
            "validation": [cycle.validation_accuracy for cycle in self.cycles],
            "average, test": [cycle.average_test_accuracy for cycle in self.cycles],
        }
        shown = {name: cells for name, cells in further.items() if None not in cells}
        for column in ("run", "epoch", "density", "non-zeros", "train", "test", *shown):
            table.add_column(column, justify="right")
        for number, cycle in enumerate(self.cycles):
            accuracies = (f"{cycle.train_accuracy:.4f}", f"{cycle.test_accuracy:.4f}")
            table.add_row(
                str(cycle.run),
                str(cycle.epoch),
                f"{cycle.density:.6g}",
                f"{cycle.nonzeros:,}",
                *accuracies,
                *(f"{cells[number]:.4f}" for cells in shown.values()),
            )
        told = f"{self.nonzeros:,} of {self.weights:,} weights; {self.epochs} epochs in {self.seconds:.1f} s"
        best = []
        if self.best_epoch is not None:
            best = [
                f"best by validation: epoch {self.best_epoch}, {self.best_validation_accuracy:.4f}; its test accuracy "
                f"is {self.best_test_accuracy:.4f}"
            ]
        table.caption = "\n".join([told, *best, *self.notes])
        return table


def from_plain(cls: type[T], content: Any, what: str) -> T:
    """The frozen dataclass `cls` out of JSON values, whose types are checked; unknown keys do not count.

    Raises CheckpointError, which names the wrong key of `what`.

    >>> from_plain(CycleResult, {"run": 0}, "cycle")
    Traceback (most recent call last):
    sparsify_fx.errors.CheckpointError: the cycle has no usable 'epoch' (field required)
    """
    try:
        if cls not in _ADAPTERS:
            _ADAPTERS[cls] = TypeAdapter(cls)
        # Not in pydantic's strict mode, which would refuse lists, JSON's only sequence, where tuples are expected.
        value: T = _ADAPTERS[cls].validate_python(content)
        return value
    except ValidationError as error:
        # The first is enough, and pydantic's own text would fill a page: a damaged file is not repaired by hand.
        problem = error.errors(include_url=False)[0]
        place, message = ".".join(map(str, problem["loc"])), problem["msg"]
        wrong = f"has no usable {place!r}" if place else "is no JSON object"
        raise CheckpointError(
            f"the {what} {wrong} ({message[:1].lower()}{message[1:]})"
        ) from None
