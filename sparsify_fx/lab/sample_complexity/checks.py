"""What `sample-complexity` claims: straight lines, AGD before GD, and where IMP is best."""

from __future__ import annotations

import math

from sparsify_fx.lab.base import Check
from sparsify_fx.lab.common.statistics import Line
from sparsify_fx.lab.sample_complexity.rates import Speed
from sparsify_fx.lab.sample_complexity.runs import Pruned, Size
from sparsify_fx.lab.sample_complexity.tensor_start import StartQuality


def line_checks(lines: dict[str, Line]) -> list[Check]:
    """R² at least 0.95, and the slope's sign as the theory has it."""
    checks = []
    for name, line in lines.items():
        falls = name.startswith("radius")
        right = (line.slope < 0) == falls
        way = "falls" if falls else "grows"
        told = f"R² {line.r2:.4f}, slope {line.slope:.3g}"
        claim = f"{name}: {way} on a line, R² at least 0.95"
        checks.append(Check(claim, told, line.r2 >= 0.95 and right))
    return checks


def other_checks(
    size: Size, speed: Speed, pruned: Pruned, starts: list[StartQuality]
) -> list[Check]:
    """AGD against GD, IMP's minimum, and the tensor initialization."""
    checks = []
    kinds = {"measured rate": speed.measured, "slowest mode": speed.slowest}
    for how, found in kinds.items():
        gap = min(
            found["GD", kept].mean - found["AGD", kept].mean for kept in size.rate_ranks
        )
        claim = f"AGD's {how} lies below GD's at every r"
        checks.append(Check(claim, f"by at least {gap:.2g}", gap > 0))
    checks += _pruning_checks(size, pruned)

    # Lemma 1 is about enough samples: with fewer the start is rougher, and the last entry has the most.
    last = starts[-1]
    claim = f"AGD from the tensor initialisation with {last.samples:,} samples finds the teacher in 95 % of runs"
    checks.append(Check(claim, f"{last.success:.0%}", last.success >= 0.95))
    return checks


def _pruning_checks(size: Size, pruned: Pruned) -> list[Check]:
    """Where IMP's error is smallest; with too few samples for the teacher's own non-zeros, that it stays large."""
    truth, checks = size.imp_kept / size.imp_width, []
    for samples, rows in pruned.items():
        best, error = min(rows, key=lambda row: row[1].mean)
        # Shares fall by 0.8 a cycle and need not meet the teacher's: within a step is all one can ask.
        steps = abs(math.log(best / truth) / math.log(0.8))
        told = f"{best:.3f} left, {steps:.2f} steps off, error {error.mean:.3g} (dense {rows[0][1].mean:.3g})"
        claim = f"IMP, N = {samples}: best within a pruning step of {truth:g} left"
        checks.append(Check(claim, told, steps <= 1))
        if samples <= size.neurons * size.imp_kept:
            claim = f"IMP, N = {samples}: the error stays above 0.1 at every sparsity"
            checks.append(Check(claim, f"at least {error.mean:.3g}", error.mean > 0.1))
    return checks
