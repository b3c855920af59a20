"""latency: milliseconds of a forward in onnxruntime with the sparse kernels of this package."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass

from sparsify_fx.budgets.base import BUDGETS, Met, Request, check_unused, unreachable
from sparsify_fx.budgets.division import Division, division_of
from sparsify_fx.budgets.plain import first_call
from sparsify_fx.distributed.ranks import exchange
from sparsify_fx.errors import SparsityError

_NEAR = 0.02
"""How near to the target the search ends; what is measured of one model twice differs by about as much."""
_MOST_TRIALS = 15
_REPEATS = 3
"""How many races the time that ends the search is measured again in."""


@BUDGETS.register("latency")
@dataclass(frozen=True)
class Latency:
    """At most so many milliseconds for a forward of the example inputs, on this machine.

    `apply` exports the model as it is, tries numbers of weights with the method's allocation, and takes the largest one
    that is within 2 % of the target: layers and their layouts are chosen by the cost model of `sparsify_fx.runtime`, as
    `export(..., target="sparse-ort")` does, and the whole is timed in turn with the dense model, by processor time. No
    weight has to be trained: the time depends on how many of each layer stay, and little on which.

    Times are those of one machine and vary a little: two calls may keep slightly different numbers. A training that is
    to be resumed, or to run on several machines, notes what the first call found and asks for that:
    `met = sparsify_fx.budgets.met_by(model)[0]`, then `sparsity=met.sparsity, allocation=met.allocation`. Within one
    process group all ranks take what the first one measured.

    Attributes:
        milliseconds: the target.
        threads: of onnxruntime.
        most: the highest sparsity that is tried.

    Needs `example_inputs`, and the compiled kernels. Takes half a minute for a mobilenet.
    """

    milliseconds: float
    threads: int = 1
    most: float = 0.99

    def __post_init__(self) -> None:
        good = isinstance(self.milliseconds, (int, float)) and not isinstance(
            self.milliseconds, bool
        )
        if not good or not 0 < self.milliseconds < math.inf:
            raise SparsityError(
                f"latency: milliseconds={self.milliseconds!r} must be a positive number"
            )
        if not (isinstance(self.threads, int) and self.threads >= 1):
            raise SparsityError(f"latency: threads={self.threads!r} must be at least 1")
        if not 0 < self.most < 1:
            raise SparsityError(
                f"latency: most={self.most!r} must be a sparsity in (0, 1)"
            )

    def meet(self, request: Request) -> Met:
        """The largest number of weights with which the model takes the target."""
        # Imported here: onnxruntime takes longer to import than all that a training needs.
        from sparsify_fx.budgets.trial import open_trial

        check_unused("Latency", "milliseconds", request)
        args, kwargs = first_call(
            request.example_inputs, request.inputs.batches, "budget latency"
        )
        division = division_of(request, "latency", 0.1)
        trial = open_trial(
            request.model, (*args, kwargs) if kwargs else args, self.threads
        )
        if self.milliseconds >= trial.milliseconds:
            raise SparsityError(
                f"budget latency: the dense model takes {trial.milliseconds:.3g} ms here, within "
                f"{self.milliseconds:g} ms already; nothing has to be pruned for that"
            )
        times: dict[int, float] = {}

        def timed(number: int, races: int) -> float:
            # Between two groups no number of weights is another model: that is not measured again to pass a step.
            kept = division.within(number)
            if races > 1 or kept not in times:
                times[kept] = trial.run(division.masks(kept), races)
            return times[kept]

        kept, taken = self._search(division, timed, trial.milliseconds)
        # Clocks differ between processes, masks must not: the first one's word counts.
        said = exchange(
            "the budget latency", json.dumps([kept, taken, trial.milliseconds])
        )
        kept, taken, dense = json.loads(said[0])
        kept = division.within(kept)
        total = division.total
        return Met(
            "latency",
            "ms",
            float(self.milliseconds),
            taken,
            dense,
            kept,
            total,
            division.fixed(kept),
        )

    def _search(
        self, division: Division, timed: Callable[[int, int], float], dense: float
    ) -> tuple[int, float]:
        """(weights, milliseconds) within `_NEAR` of the target, else the most weights that are within it."""
        target = float(self.milliseconds)
        low = max(division.least, round((1 - self.most) * division.total))
        least = timed(low, 1)
        if least > target * (1 + _NEAR):
            raise unreachable(
                "latency",
                f"{target:g} ms",
                f"{least:.3g} ms",
                f"{dense:.3g} ms",
                f"sparsity {1 - low / division.total:.3g}; most={self.most:g} is the highest that is tried",
            )
        # The bracket, and the point to return. Times fall a little unevenly where layers change sides.
        below, above = (low, least), (division.total, dense)
        sure = False
        for _ in range(_MOST_TRIALS):
            if abs(below[1] - target) <= _NEAR * target or above[0] - below[0] <= 1:
                if sure:
                    break
                # Of several noisy times the search stops at one that is off in the direction sought: look again.
                middle, sure = below[0], True
                taken = timed(middle, _REPEATS)
            else:
                middle, sure = _between(below, above, target), False
                taken = timed(middle, 1)
            if taken <= target * (1 + _NEAR):
                below = (middle, taken)
            else:
                above = (middle, taken)
                below = (low, least) if sure else below
        return below


def _between(below: tuple[int, float], above: tuple[int, float], target: float) -> int:
    """The number of weights at which a line through both would meet the target, away from either end."""
    (low, fast), (high, slow) = below, above
    share = (target - fast) / (slow - fast) if slow > fast else 0.5
    # From sparse kernels on, time is about linear in weights; near the dense end it hardly falls at all, and a line
    # would creep. So no step is smaller than an eighth of the bracket, on a scale of ratios.
    share = min(max(share, 0.125), 0.875)
    line = low + share * (high - low)
    ratio = low * (high / low) ** share
    found = round(math.sqrt(line * ratio))
    return min(max(found, low + 1), high - 1)
