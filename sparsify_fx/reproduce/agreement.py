"""How far our numbers agree with a paper's: its orders, its claims, and at full scale the numbers themselves."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from sparsify_fx.reproduce.figure import Claim, Figure, Point, Scale, X


@dataclass(frozen=True)
class Verdict:
    """Something the paper says, what was measured, and whether it holds here; None where nothing was measured."""

    claim: str
    measured: str
    holds: bool | None


@dataclass(frozen=True)
class Agreement:
    """The verdicts on claims, (orders that hold, orders of the paper's numbers), and |ours − theirs| in their units."""

    verdicts: tuple[Verdict, ...]
    orders: tuple[int, int]
    differences: tuple[float, ...]

    def sentence(self, label: str) -> str:
        """One sentence, which begins with what was run."""
        judged = [v.holds for v in self.verdicts if v.holds is not None]
        parts = []
        if judged:
            parts.append(f"{sum(judged)} of {len(judged)} claims hold")
        if len(judged) < len(self.verdicts):
            parts.append(f"{len(self.verdicts) - len(judged)} could not be judged")
        if self.orders[1]:
            right, count = self.orders
            parts.append(
                f"{right} of {count} orders between the paper's numbers come out"
            )
        if self.differences:
            mean = sum(self.differences) / len(self.differences)
            parts.append(
                f"our numbers lie {mean:.3g} from the paper's on average, {max(self.differences):.3g} at most"
            )
        told = ", ".join(parts) or "the paper gives neither numbers nor claims for this"
        return f"At {label}: {told}."


def agreement(figure: Figure, ours: Sequence[Point], scale: Scale) -> Agreement:
    """What of the paper's numbers and claims holds in our points.

    At a reduced scale there are other panels than the paper's: each of ours is compared with each of theirs, by order
    alone.
    """
    theirs = figure.points()
    verdicts = tuple(_verdict(claim, ours) for claim in figure.claims)
    differences = tuple(
        abs(point.y - there.y)
        for point, there in _pairs(ours, theirs, alike=True)
        if scale == "full" or figure.kind == "lab"
    )
    return Agreement(verdicts, _orders(ours, theirs), differences)


def _pairs(
    ours: Sequence[Point], theirs: Sequence[Point], *, alike: bool
) -> list[tuple[Point, Point]]:
    """Points of one series at one x; of one panel too, if `alike`."""
    return [
        (one, other)
        for one, other in itertools.product(ours, theirs)
        if (one.series, one.x) == (other.series, other.x)
        and (one.panel == other.panel or not alike)
    ]


def _orders(ours: Sequence[Point], theirs: Sequence[Point]) -> tuple[int, int]:
    """How many pairs of series have the paper's order at the paper's x, and how many there are."""
    # Where panels have the paper's names they are compared one by one, else all with all.
    shared = {point.panel for point in ours} & {point.panel for point in theirs}
    pairs = _pairs(ours, theirs, alike=bool(shared))
    groups: dict[tuple[str, str, X], list[tuple[Point, Point]]] = {}
    for one, other in pairs:
        groups.setdefault((one.panel, other.panel, one.x), []).append((one, other))
    right = count = 0
    for group in groups.values():
        for (a, paper_a), (b, paper_b) in itertools.combinations(group, 2):
            # Equal numbers have no order that could come out.
            if paper_a.y != paper_b.y:
                count += 1
                right += (a.y - b.y) * (paper_a.y - paper_b.y) > 0
    return right, count


def _verdict(claim: Claim, ours: Sequence[Point]) -> Verdict:
    """The mean difference over all x at which both series have a number."""
    at = {(point.panel, point.x, point.series): point.y for point in ours}
    gaps = []
    for (panel, x, series), y in at.items():
        other = at.get((panel, x, claim.than))
        far = not isinstance(x, str) and x < claim.least
        # Panels of a reduction have no names of the paper's: a claim on one of them is judged there all the same.
        elsewhere = bool(panel) and claim.panel not in panel
        if series == claim.more and other is not None and not (far or elsewhere):
            gaps.append(y - other)
    place = f" from {claim.least:g} on" if claim.least >= 0 else ""
    told = f"{claim.more} above {claim.than}{place}" + (
        f" ({claim.panel})" if claim.panel else ""
    )
    if not gaps:
        return Verdict(told, "no number of both", None)
    mean, above = sum(gaps) / len(gaps), sum(gap > 0 for gap in gaps)
    return Verdict(
        told, f"{mean:+.3g} on average, above at {above} of {len(gaps)}", mean > 0
    )
