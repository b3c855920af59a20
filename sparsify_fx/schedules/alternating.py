"""alternating: dense and compressed phases in turn."""

from __future__ import annotations

from dataclasses import dataclass

from sparsify_fx.errors import MethodError
from sparsify_fx.schedules.base import (
    MOST_UPDATES,
    SCHEDULES,
    Budget,
    OneRun,
    check_count,
)
from sparsify_fx.schedules.updates import Decompress, MaskUpdate, Prune


@SCHEDULES.register("alternating")
@dataclass(frozen=True)
class Alternating(OneRun):
    """AC/DC: dense warm-up, then compressed and decompressed phases in turn, a longer dense one, a compressed end.

    Times are shares of the run; the defaults are the published ones for 100 epochs: 10 dense, then phases of 5 until
    epoch 75, dense until 85, compressed to the end.

    Attributes:
        warmup: when the first compressed phase starts.
        phase: length of a phase.
        last_dense: when the last dense phase starts, an odd number of phases after the warm-up.
        end: when the last compressed phase starts.

    Source: [Peste 2021], section 4 and appendix.
    """

    warmup: float = 0.1
    phase: float = 0.05
    last_dense: float = 0.75
    end: float = 0.85

    def __post_init__(self) -> None:
        if not (0 <= self.warmup < self.last_dense < self.end < 1 and self.phase > 0):
            raise MethodError(
                f"alternating: expected 0 <= warmup < last_dense < end < 1 and phase > 0, got {self}"
            )
        # Counted before any phase is made: phase=1e-9 would fill the memory with updates.
        phases = (self.last_dense - self.warmup) / self.phase
        check_count(
            f"alternating: phase={self.phase!r} makes phases:",
            phases,
            MOST_UPDATES,
            "give a longer phase",
        )
        # Odd, so that the phase before the last dense one is compressed; a fraction is refused rather than rounded.
        if self._phases() % 2 == 0 or abs(phases - self._phases()) > 1e-6:
            raise MethodError(
                f"alternating: last_dense − warmup must be an odd number of phases, got {phases:.6g}; with "
                "phase=0.05 and warmup=0.1 last_dense=0.75 makes 13"
            )

    def _phases(self) -> int:
        return round((self.last_dense - self.warmup) / self.phase)

    def for_trained(self, sparsity: float, epochs: int, steps: int) -> Alternating:
        """Compressed at once, and few phases, of a fifth of the run each: in few epochs shorter ones learn nothing."""
        return Alternating(warmup=0.0, phase=0.2, last_dense=0.6, end=0.7)

    def updates(self, budget: Budget) -> tuple[MaskUpdate, ...]:
        """Prune at the start of each compressed phase, decompress at the start of each dense one."""
        if budget.sparsity == 0:
            return ()
        found: list[MaskUpdate] = []
        # Computed from i and not added up: sums of 0.05 drift, and an update would fall on a neighboring step.
        for i in range(self._phases()):
            time = (self.warmup + i * self.phase) * budget.epochs
            found.append(
                Prune(0, time, budget.kept) if i % 2 == 0 else Decompress(0, time)
            )
        found.append(Decompress(0, self.last_dense * budget.epochs))
        return (*found, Prune(0, self.end * budget.epochs, budget.kept))
