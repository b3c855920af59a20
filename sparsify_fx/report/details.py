"""What a run's checkpoint and model say: events, layers and signs. Each part that cannot be had says why."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from sparsify_fx.analysis.runs import Run
from sparsify_fx.analysis.signs import sign_flips, sign_flips_by_layer
from sparsify_fx.errors import SparsifyError

T = TypeVar("T")


@dataclass(frozen=True)
class LayerFacts:
    """One prunable weight. `flips`: kept weights whose sign is not that of initialization; None where that is gone."""

    name: str
    shape: tuple[int, ...]
    weights: int
    kept: int
    flips: int | None = None

    @property
    def sparsity(self) -> float:
        """1 − kept / weights."""
        return 1 - self.kept / self.weights if self.weights else 0.0


@dataclass(frozen=True)
class Details:
    """One run in full.

    Attributes:
        events: rows of the timeline: (run, epoch, step, event, detail), with the part in front where there are several.
        layers: every prunable weight, from input to output.
        signs: (epoch, share that differs from the initial sign, from the final one) at each kept state.
        lacking: why a part is empty, by its name.
    """

    events: tuple[tuple[str, ...], ...] = ()
    layers: tuple[LayerFacts, ...] = ()
    signs: tuple[tuple[int, float, float], ...] = ()
    lacking: dict[str, str] = field(default_factory=dict)


def details_of(path: str | os.PathLike[str]) -> Details:
    """Events, layers and signs of a run folder, which is only read; its data set is opened for some of them.

    Example: `details_of("runs/lrr-0123456789").layers[0].sparsity`.
    """
    lacking: dict[str, str] = {}

    def tried(part: str, make: Callable[[], T], otherwise: T) -> T:
        # A page without one part is better than none: data are often gone when a report is read.
        try:
            return make()
        except (SparsifyError, OSError) as error:
            lacking[part] = " ".join(str(error).split())
            return otherwise

    try:
        run = Run(path)
    # Before the first checkpoint there is nothing to build on.
    except SparsifyError as error:
        reason = " ".join(str(error).split())
        parts = dict.fromkeys(("events", "layers", "signs"), reason)
        return Details(lacking=parts)
    nothing = Details()
    layers = tried("layers", lambda: _layers(run), nothing.layers)
    signed = tried("signs", lambda: _with_signs(run, layers), layers)
    signs = tried("signs", lambda: _signs(run), nothing.signs)
    events = tried("events", lambda: _events(run), nothing.events)
    return Details(events, signed, signs, lacking)


def _events(run: Run) -> tuple[tuple[str, ...], ...]:
    return tuple(run.session.scheduler.timeline().rows())


def _layers(run: Run) -> tuple[LayerFacts, ...]:
    masks = run.final_masks()
    return tuple(
        LayerFacts(name, tuple(mask.shape), mask.numel(), int(mask.sum()))
        for name, mask in masks.items()
    )


def _with_signs(run: Run, layers: tuple[LayerFacts, ...]) -> tuple[LayerFacts, ...]:
    """The same with the flips from initialization to the end."""
    flips = sign_flips_by_layer(run.initial, run.final, run.final_masks())
    return tuple(
        LayerFacts(one.name, one.shape, one.weights, one.kept, flips[one.name].flips)
        for one in layers
    )


def _signs(run: Run) -> tuple[tuple[int, float, float], ...]:
    """The course of signs where the run kept states on the way."""
    mask, first, last = run.final_masks(), run.initial, run.final
    return tuple(
        (
            epoch,
            sign_flips(first, state, mask).share,
            sign_flips(state, last, mask).share,
        )
        for epoch, state in run.points().items()
    )
