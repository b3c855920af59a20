"""What `sample-complexity` claims: straight lines, AGD before GD, and where IMP is best."""

from __future__ import annotations

import math
from itertools import pairwise

from sparsify_fx.lab.base import Check
from sparsify_fx.lab.common.statistics import Line
from sparsify_fx.lab.sample_complexity.geometry import Bounds
from sparsify_fx.lab.sample_complexity.pruning import Once, Pruned
from sparsify_fx.lab.sample_complexity.rates import Speed
from sparsify_fx.lab.sample_complexity.runs import Size
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
    size: Size,
    speed: Speed,
    pruned: dict[tuple[str, int], Pruned],
    starts: list[StartQuality],
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
    for (start, samples), found_pruned in pruned.items():
        checks += _pruning_checks(size, start, samples, found_pruned)

    # Lemma 1 is about enough samples: with fewer the start is rougher, and the last entry has the most.
    last = starts[-1]
    claim = f"AGD from the tensor initialisation with {last.samples:,} samples finds the teacher in 95 % of runs"
    checks.append(Check(claim, f"{last.success:.0%}", last.success >= 0.95))
    return checks


def _pruning_checks(
    size: Size, start: str, samples: int, pruned: Pruned
) -> list[Check]:
    """Where IMP's error is smallest; with too few samples for the teacher's own non-zeros, that it stays large."""
    truth = size.imp_kept / size.imp_width
    dense, best = (
        pruned.cycles[0],
        min(pruned.cycles, key=lambda cycle: cycle.error.mean),
    )
    error = best.error.mean
    # Shares fall by 0.8 a cycle and need not meet the teacher's: within a step is all one can ask.
    steps = abs(math.log(best.left / truth) / math.log(0.8))
    told = (
        f"{best.left:.3f} left, {steps:.2f} steps off, error {error:.3g} (dense {dense.error.mean:.3g}); the untrained "
        f"weights hold {float(pruned.untrained.mean()):.0%} of the teacher's mask"
    )
    claim = f"IMP from a {start} start, N = {samples}: best within a pruning step of {truth:g} left"
    checks = [Check(claim, told, steps <= 1)]
    if samples <= size.neurons * size.imp_kept:
        claim = f"IMP from a {start} start, N = {samples}: the error stays above 0.1 at every sparsity"
        checks.append(Check(claim, f"at least {error:.3g}", error > 0.1))
    return checks


def once_checks(once: dict[tuple[str, int], Once]) -> list[Check]:
    """Section 4.1: from a start in the convex region AGD and one pruning give the teacher's mask, within T₁ steps."""
    checks = []
    for (start, samples), found in once.items():
        if start != "near":
            continue
        told = f"{found.exact:.0%} of runs after {found.steps:g} steps, T1 = {found.enough:.0f}"
        claim = f"AGD from a near start and one pruning, N = {samples}: the teacher's mask in every run"
        checks.append(Check(claim, told, found.exact == 1))
    return checks


def bound_checks(
    bounds: dict[str, dict[float, Bounds]], needed: dict[str, dict[int, float]]
) -> list[Check]:
    """Theorem 1: λmin·K² and λmax·K are constants, the first falls with sqrt(r/N) and with the distance."""
    checks = []
    for what, pick in (("smallest", "least"), ("largest", "most")):
        values = [getattr(found, pick).mean for found in bounds["K"].values()]
        power = "K²" if pick == "least" else "K"
        told = ", ".join(f"{value:.3g}" for value in values)
        claim = f"Theorem 1: {power} times the {what} eigenvalue stays within a factor of 3 over all K"
        checks.append(Check(claim, told, max(values) < 3 * min(values)))
    for axis, what in (("r", "r grows"), ("distance", "W leaves the teacher")):
        values = [found.least.mean for found in bounds[axis].values()]
        told = ", ".join(f"{value:.3g}" for value in values)
        claim = f"Theorem 1: the smallest eigenvalue falls as {what}"
        falls = all(after < before for before, after in pairwise(values))
        checks.append(Check(claim, told, falls))
    for axis, allowed in (("K", 8), ("d", 1)):
        (first, *_, last) = needed[axis].items()
        # Upper bounds: at most K⁸, and at most log d.
        grown = last[1] / first[1]
        ratio = last[0] / first[0] if axis == "K" else math.log(last[0], first[0])
        exponent = math.log(grown) / math.log(ratio)
        ends = [f"{count:.0f} at {axis} = {value}" for value, count in (first, last)]
        told = f"{', '.join(ends)}: power {exponent:.2f}"
        law = "K⁸" if axis == "K" else "log d"
        claim = f"Theorem 2: the samples needed grow no faster than {law}"
        checks.append(Check(claim, told, grown <= ratio**allowed))
    return checks
