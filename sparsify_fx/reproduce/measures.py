"""How the numbers of a figure come out of finished runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sparsify_fx.analysis import layer_sparsity
from sparsify_fx.analysis.base import Options
from sparsify_fx.analysis.batch_norm import SMALL, describe_scales, scale_names
from sparsify_fx.analysis.connectivity import loss_and_error
from sparsify_fx.analysis.pruning import prune_curve
from sparsify_fx.analysis.reports import (
    sharpness_curve,
    sign_curve,
    sign_cycles,
    signs,
)
from sparsify_fx.analysis.reports.prune_curve import curve_of
from sparsify_fx.analysis.runs import Run
from sparsify_fx.reproduce.figure import Figure, Point, X
from sparsify_fx.sweeps.records import Record, Records
from sparsify_fx.sweeps.spread import spread

# (what is added to the panel's name, x) -> y of one run.
Numbers = Mapping[tuple[str, X], float]
Measure = Callable[[Records, Figure], list[Point]]
# Where panels have no names of the paper's.
REDUCED_PANEL = ""


@dataclass(frozen=True)
class _Cell:
    """Runs that differ in nothing but the seed."""

    panel: str
    series: str
    runs: tuple[Record, ...]


def _cells(records: Records, figure: Figure) -> Iterator[_Cell]:
    for runs in records.cells():
        cell = runs[0].cell
        recipe = str(cell.get("recipe", ""))
        panel = figure.panels.get(recipe, recipe) or _only(figure)
        yield _Cell(panel, str(cell["method"]), tuple(runs))


def _only(figure: Figure) -> str:
    """The panel's name where the sweep has one recipe and the figure one panel."""
    names = list(figure.panels.values())
    return names[0] if len(names) == 1 else REDUCED_PANEL


def accuracy(records: Records, figure: Figure) -> list[Point]:
    """At the end, in percent, against the sparsity that was asked for."""
    found = []
    for cell in _cells(records, figure):
        mean = spread([100 * run.result.test_accuracy for run in cell.runs])
        x = cell.runs[0].cell["sparsity"]
        found.append(Point(cell.panel, cell.series, x, mean.mean, mean.half, mean.n))
    return found


def accuracy_of_pairs(records: Records, figure: Figure) -> list[Point]:
    """The same where labels are "SERIES @ X": tables whose columns are masks, or whose rows have settings of their own.

    Labels without an @ are runs that others take from, and no part of the table.
    """
    found = []
    for point in accuracy(records, figure):
        series, at, x = point.series.partition(" @ ")
        if at:
            number = float(x) if re.fullmatch(r"[\d.]+", x) else x
            found.append(replace(point, series=series, x=number))
    return found


def accuracy_by_cycle(records: Records, figure: Figure) -> list[Point]:
    """At the end of each cycle, in percent, against the sparsity then."""
    return _spread(
        records,
        figure,
        lambda record: {
            ("", round(1 - cycle.density, 4)): 100 * cycle.test_accuracy
            for cycle in record.result.cycles
        },
    )


def _spread(
    records: Records, figure: Figure, numbers: Callable[[Record], Numbers]
) -> list[Point]:
    """Means over seeds of what each run gives."""
    found: list[Point] = []
    for cell in _cells(records, figure):
        by_place: dict[tuple[str, X], list[float]] = {}
        for run in cell.runs:
            for place, y in numbers(run).items():
                by_place.setdefault(place, []).append(y)
        for (part, x), values in by_place.items():
            mean = spread(values)
            panel = ": ".join(filter(None, (cell.panel, part)))
            found.append(Point(panel, cell.series, x, mean.mean, mean.half, mean.n))
    return found


def _of_runs(numbers: Callable[[Run], Numbers]) -> Measure:
    """A measure that looks into run folders."""
    return lambda records, figure: _spread(
        records, figure, lambda record: numbers(Run(record.result.folder))
    )


def _sign_history(run: Run) -> Numbers:
    """When signs stay, how often they switch, and flips from init by sparsity; shares in percent."""
    history = sign_cycles.measure(run)
    after = ["init", *map(str, history.cycles)]
    found: dict[tuple[str, X], float] = {}
    for x, share in zip(after, history.settled, strict=True):
        found["signs stay after", x] = 100 * share
    for times, share in enumerate(history.switches):
        found["switches", str(times)] = 100 * share
    return found


def _sign_flips(run: Run) -> Numbers:
    """Flips from init among the weights kept then, in percent, by sparsity."""
    history = sign_cycles.measure(run)
    points = zip(history.sparsity, history.flips, history.kept, strict=True)
    return {("", round(s, 4)): 100 * flips / kept for s, flips, kept in points}


def _sign_stages(run: Run) -> Numbers:
    """Flips between init, warm-up and end, in percent."""
    found = signs.stages(run)
    return {("", stage): 100 * signs.total(of).share for stage, of in found.items()}


def _sign_layers(run: Run) -> Numbers:
    """The same by layer."""
    found: dict[tuple[str, X], float] = {}
    for stage, layers in signs.stages(run).items():
        found |= {(stage, name): 100 * one.share for name, one in layers.items()}
    return found


def _sign_curve(run: Run) -> Numbers:
    """Signs that differ from the initial and the final ones, in percent, by epoch."""
    found: dict[tuple[str, X], float] = {}
    for epoch, first, last in sign_curve.curve(run):
        found["differ from init", float(epoch)] = 100 * first
        found["differ from end", float(epoch)] = 100 * last
    return found


def _sharpness(run: Run) -> Numbers:
    """The largest eigenvalue of the Hessian by epoch."""
    curve = sharpness_curve.curve(run, Options())
    return {("", float(epoch)): top.value for epoch, top in curve.items()}


def _layers(run: Run) -> Numbers:
    """Sparsity of each layer, in percent."""
    found = layer_sparsity(run.final_masks())
    return {("", name): 100 * one.sparsity for name, one in found.items()}


def _bn_scales(run: Run) -> Numbers:
    """Median of γ, and the share of channels that vanished, by layer."""
    found: dict[tuple[str, X], float] = {}
    for name in scale_names(run.session.model):
        scales = describe_scales(run.final[name].float())
        found["median of γ", name] = scales.quantiles[2]
        share = 100 * scales.vanished / scales.channels
        found[f"channels with |γ| < {SMALL:g}, %", name] = share
    return found


def frontier(records: Records, figure: Figure) -> list[Point]:
    """One-shot: each run pruned to the level before its validation accuracy drops; the best of a series at each level.

    A series is what stands before the comma of a method's label, after which its strength is told.

    Source: [Jacobs 2025], section 4 ("always show the best result") and appendix C.2.
    """
    candidates: dict[tuple[str, str], list[Point]] = {}
    for cell in _cells(records, figure):
        chosen = [_chosen(Run(run.result.folder)) for run in cell.runs]
        x = spread([level for level, _ in chosen]).mean
        y = spread([100 * accuracy for _, accuracy in chosen])
        series = cell.series.partition(",")[0]
        point = Point(cell.panel, series, round(x, 4), y.mean, y.half, y.n)
        candidates.setdefault((cell.panel, series), []).append(point)
    found: list[Point] = []
    for points in candidates.values():
        found += best(points)
    return found


def best(points: Sequence[Point]) -> list[Point]:
    """Those that no other one beats at the same or a higher x, by x.

    >>> [p.x for p in best([Point("", "", 0.8, 90), Point("", "", 0.9, 92), Point("", "", 0.95, 85)])]
    [0.9, 0.95]
    """
    found: list[Point] = []
    for point in sorted(points, key=lambda point: (point.x, point.y), reverse=True):
        if not found or point.y > found[-1].y:
            found.append(point)
    return found[::-1]


def _chosen(run: Run) -> tuple[float, float]:
    """The level by the paper's rule on the images kept aside, and the test accuracy there."""
    level = curve_of(run).chosen()
    batches = run.test_batches()
    curve = prune_curve(
        run.model(),
        run.weights,
        lambda model: 1 - loss_and_error(model, batches, run.loss)[1],
        (level,),
    )
    return level, curve.accuracies[-1]


MEASURES: dict[str, Measure] = {
    "accuracy": accuracy,
    "accuracy-of-pairs": accuracy_of_pairs,
    "accuracy-by-cycle": accuracy_by_cycle,
    "frontier": frontier,
    "sign-history": _of_runs(_sign_history),
    "sign-flips": _of_runs(_sign_flips),
    "sign-stages": _of_runs(_sign_stages),
    "sign-layers": _of_runs(_sign_layers),
    "sign-curve": _of_runs(_sign_curve),
    "sharpness": _of_runs(_sharpness),
    "layers": _of_runs(_layers),
    "bn-scales": _of_runs(_bn_scales),
}
"""By the name that a figure's file gives."""


def measured(records: Records, figure: Figure) -> list[Point]:
    """The figure's points; with `first_minus_second` the difference of the first two series is one more."""
    found = MEASURES[figure.measure](records, figure)
    names = list(dict.fromkeys(point.series for point in found))[:2]
    # Where all trials of one of them failed, there is nothing to take off.
    if not figure.first_minus_second or len(names) < 2:
        return found
    at = {(point.panel, point.x, point.series): point for point in found}
    series = " − ".join(names)
    for panel, x, name in list(at):
        other = at.get((panel, x, names[-1]))
        if name == names[0] and other is not None:
            first = at[panel, x, name]
            found.append(Point(panel, series, x, first.y - other.y, None, first.n))
    return found
