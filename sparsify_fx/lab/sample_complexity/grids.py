"""The tables of what `pruning` and `geometry` measure."""

from __future__ import annotations

from sparsify_fx.lab.sample_complexity.geometry import Bounds
from sparsify_fx.lab.sample_complexity.pruning import Cycle, Once, Pruned
from sparsify_fx.tables.fitting import Grid, Value


def pruning_grid(start: str, pruned: dict[tuple[str, int], Pruned]) -> Grid:
    """Fig. 6 from one start: test errors."""
    title = f"Fig. 6: IMP's test error by the share of weights left, {start} start"
    found = _of(start, pruned)
    rows: list[tuple[Value, ...]] = []
    for row in _rows(found):
        rows.append((f"{row[0].left:.3f}", *(str(cycle.error) for cycle in row)))
    return Grid(title, ("left", *(f"N = {samples}" for samples in found)), tuple(rows))


def recall_grid(start: str, pruned: dict[tuple[str, int], Pruned]) -> Grid:
    """How much of the teacher's mask the largest weights hold: before any training, and after each cycle's."""
    title = f"share of the teacher's mask among as many of the largest weights, {start} start"
    found = _of(start, pruned)
    untrained = (f"{float(one.untrained.mean()):.3f}" for one in found.values())
    rows: list[tuple[Value, ...]] = [("untrained", *untrained)]
    for row in _rows(found):
        means = (f"{float(cycle.recalls.mean()):.3f}" for cycle in row)
        rows.append((f"{row[0].left:.3f}", *means))
    return Grid(title, ("left", *(f"N = {samples}" for samples in found)), tuple(rows))


def _of(start: str, pruned: dict[tuple[str, int], Pruned]) -> dict[int, Pruned]:
    return {samples: one for (name, samples), one in pruned.items() if name == start}


def _rows(found: dict[int, Pruned]) -> list[tuple[Cycle, ...]]:
    # Every number of samples is pruned to the same shares, so that rows match.
    return list(zip(*(one.cycles for one in found.values()), strict=True))


def once_grid(once: dict[tuple[str, int], Once]) -> Grid:
    """Section 4.1: AGD and one pruning."""
    rows: list[tuple[Value, ...]] = []
    for (start, samples), found in once.items():
        recalls = (f"{found.untrained.mean:.3f}", f"{found.recall.mean:.3f}")
        steps = (found.steps, round(found.enough))
        rows.append((start, samples, *recalls, found.exact, *steps, found.success))
    return Grid(
        "section 4.1: AGD on the dense network, then one pruning to the teacher's sparsity",
        (
            "start",
            "N",
            "mask held, untrained",
            "trained",
            "exact masks",
            "steps until exact",
            "T1",
            "finds the teacher",
        ),
        tuple(rows),
    )


def bounds_grids(bounds: dict[str, dict[float, Bounds]]) -> tuple[Grid, ...]:
    """Theorem 1's constants by K, r and distance."""
    titles = {
        "K": "Theorem 1: the Hessian at the teacher, samples in proportion to K·r",
        "r": "Theorem 1: the Hessian at the teacher, N = 3000",
        "distance": "Theorem 1: the Hessian away from the teacher, and the curvature between",
    }
    grids = []
    for axis, by_value in bounds.items():
        rows: list[tuple[Value, ...]] = []
        for value, found in by_value.items():
            row = (f"{value:g}", str(found.least), str(found.most))
            rows.append((*row, str(found.secant)) if axis == "distance" else row)
        columns: tuple[str, ...] = (
            axis,
            "K² · smallest eigenvalue",
            "K · largest eigenvalue",
        )
        if axis == "distance":
            columns = (*columns, "K² · curvature to W*")
        grids.append(Grid(titles[axis], columns, tuple(rows)))
    return tuple(grids)


def needed_grid(counts: dict[str, dict[int, float]]) -> Grid:
    """N at which half the runs succeed, by K and by d."""
    rows: list[tuple[Value, ...]] = []
    for axis, by_value in counts.items():
        for value, samples in by_value.items():
            rows.append((f"{axis} = {value}", f"{samples:.0f}"))
    return Grid(
        "Theorem 2: samples at which half the runs succeed", ("", "N"), tuple(rows)
    )
