"""Never slower than dense: which layers are sparse is tried out on the whole model, and layers are given back.

Estimates know one machine, and layers timed alone know neither the order of values in memory between them nor what
becomes one operator. So the whole model decides: several choices of layers race against the dense model, and each new
choice comes from the times that layers took inside of the whole models before.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import onnx
import onnxruntime

from sparsify_fx.runtime.candidates import Candidate
from sparsify_fx.runtime.choice.cost import Times
from sparsify_fx.runtime.choice.in_place import corrected, dense_times, sparse_times
from sparsify_fx.runtime.choice.racing import first_that_runs, open_model, race

_LOG = logging.getLogger(__name__)

Timed = Callable[[Candidate], Times]
Rewrite = Callable[[Timed], tuple[onnx.ModelProto, list[str]]]

_SCALES = (1.6, 3.0)
"""Choices that trust the estimate of the sparse kernels less."""
_BOLD = 0.6
"""And one that trusts it more, when layers may also be added."""
_TURNS = 2
"""How often times are read off the fastest model so far, to choose again."""


@dataclass(frozen=True)
class Tried:
    """The fastest choice, as a model and the weights its sparse operators hold.

    `ratio`: its time over that of the dense model, 1.0 when it is the dense one; `first`: that of the estimate's
    choice, None when that has no sparse layer; `given_back`: weights that the estimate had made sparse; `noise`: how
    far the dense model differs from itself; `times`: what decided, by the first output of a layer; `searched`: whether
    other choices than the estimate's were tried.
    """

    model: onnx.ModelProto
    names: list[str]
    ratio: float
    first: float | None
    given_back: tuple[str, ...]
    noise: float
    times: Mapping[str, Times] = field(default_factory=dict)
    searched: bool = False

    @property
    def sentence(self) -> str:
        """What was given back and why; empty when nothing was."""
        if not self.given_back or self.first is None:
            return ""
        count = len(self.given_back)
        layers = "1 layer" if count == 1 else f"{count} layers"
        if self.first > 1:
            return f"given back: {layers}, the file would have been {self.first:.2f}x as slow as dense"
        return f"given back: {layers}, with which the file would have taken {self.first / self.ratio:.2f}x as long"


@dataclass
class _Entrant:
    model: onnx.ModelProto
    names: list[str]
    session: onnxruntime.InferenceSession
    ratio: float = math.inf


def fastest(
    dense: onnx.ModelProto,
    rewrite: Rewrite,
    estimated: Timed,
    feeds: Iterable[Mapping[str, Any]],
    *,
    add: bool = False,
    threads: int = 1,
) -> Tried:
    """The fastest of some choices of sparse layers, at most as slow as `dense`, each timed as a whole model.

    Args:
        rewrite: the model with sparse operators where these times of layers say so (`to_sparse`).
        estimated: the times to begin with.
        feeds: inputs to time them on, of which the first counts that the model takes.
        add: look for a faster choice in any case, with layers that the estimate left dense; otherwise the estimate's
            choice stays if it is not slower than dense, and layers are only given back.

    Raises ExportError when `dense` runs on none of `feeds`.
    """
    layers: dict[str, Candidate] = {}

    def known(layer: Candidate) -> Times:
        layers[layer.node.output[0]] = layer
        return estimated(layer)

    # 1. What the estimate chooses, while remembering all layers that it was asked about.
    first = rewrite(known)
    estimates = {key: estimated(layer) for key, layer in layers.items()}
    # Nothing to give back, and nothing to be added: no model needs to be run.
    if not estimates or not (add or first[1]):
        return Tried(*first, 1.0, None, (), 0.0, estimates)
    base = open_model(dense, threads)
    _LOG.info("timing whole models with the choices for %d layers", len(estimates))

    # 2. That choice against the dense model.
    trial = _Trial(base, rewrite, first_that_runs(base, feeds), threads)
    trial.enter(*first)
    trial.run()
    start = trial.ratio_of(first[1])
    times: Mapping[str, Times] = estimates

    # 3. Other choices, where they are allowed or needed. One that is fast enough stays: a
    # search takes minutes.
    searched = add or (start is not None and start > 1)
    if searched:
        allowed = None if add else set(first[1])
        times = _search(trial, dense, layers, estimates, allowed)

    # 4. The winners race once more, since the best of many medians is partly luck.
    best = trial.confirmed(first[1])
    start = trial.ratio_of(first[1])
    # Nothing beats the dense model, so all layers are given back, by sparse times that no
    # layer can have.
    plain = (
        rewrite(lambda layer: Times(estimated(layer).dense, math.inf))
        if best is None
        else None
    )
    model, names = plain or (best.model, best.names)  # type: ignore[union-attr]
    back = tuple(name for name in first[1] if name not in names)
    ratio = 1.0 if best is None else best.ratio
    _LOG.info(
        "the fastest of %d choices takes %.3f of the dense model's time",
        len(trial.entrants),
        ratio,
    )
    return Tried(model, names, ratio, start, back, trial.noise, times, searched)


class _Trial:
    """The choices so far, each once, and how fast they were."""

    def __init__(
        self,
        base: onnxruntime.InferenceSession,
        rewrite: Rewrite,
        feed: Mapping[str, Any],
        threads: int,
    ) -> None:
        self._base, self._rewrite, self.feed, self.threads = (
            base,
            rewrite,
            feed,
            threads,
        )
        self.noise = 0.0
        self.entrants: dict[tuple[tuple[str, str], ...], _Entrant] = {}

    def choose(self, timed: Timed) -> None:
        """Enter the choice that these times lead to."""
        self.enter(*self._rewrite(timed))

    def enter(self, model: onnx.ModelProto, names: list[str]) -> None:
        """Enter a model, unless it is dense or known."""
        # Keyed by the graph, not by its weights: choices of the same layers may differ in the poolings between them.
        key = list[tuple[str, str]]()
        for node in model.graph.node:
            key += ((node.op_type, output) for output in node.output)
        if names and tuple(key) not in self.entrants:
            self.entrants[tuple(key)] = _Entrant(
                model, names, open_model(model, self.threads)
            )

    def run(self) -> None:
        """Time those that are new, with the best of the others."""
        # The best so far runs again, for ratios of one race are comparable, and those of
        # two hardly.
        found = sorted(self.entrants.values(), key=lambda each: each.ratio)
        running = [
            each
            for place, each in enumerate(found)
            if place == 0 or each.ratio == math.inf
        ]
        self._race(running)

    def _race(self, running: list[_Entrant]) -> None:
        if not running:
            return
        result = race(
            self._base,
            [each.session for each in running],
            self.feed,
            threads=self.threads,
        )
        self.noise = max(self.noise, result.noise)
        for each, ratio in zip(running, result.ratios, strict=True):
            each.ratio = ratio
            _LOG.debug(
                "%d sparse layers: %.3f of the dense model's time",
                len(each.names),
                ratio,
            )

    def ratio_of(self, names: list[str]) -> float | None:
        """That of the entrant that holds these weights, if it is one."""
        return next(
            (each.ratio for each in self.entrants.values() if each.names == names), None
        )

    def best(self) -> _Entrant | None:
        """The fastest so far."""
        return min(self.entrants.values(), key=lambda each: each.ratio, default=None)

    def confirmed(self, names: list[str]) -> _Entrant | None:
        """The fastest two once more, since who won a race of many was lucky; None where none is faster than dense.

        With them the one that holds these weights: whatever wins is faster than that one in the same race.
        """
        ordered = sorted(self.entrants.values(), key=lambda each: each.ratio)
        found = [
            each
            for place, each in enumerate(ordered)
            if place < 2 or each.names == names
        ]
        if len(self.entrants) > 1:
            self._race(found)
        best = min(found, key=lambda each: each.ratio, default=None)
        return best if best is not None and best.ratio <= 1 else None


def _search(
    trial: _Trial,
    dense: onnx.ModelProto,
    layers: Mapping[str, Candidate],
    estimates: Mapping[str, Times],
    allowed: set[str] | None,
) -> Mapping[str, Times]:
    """Enter choices by other times, `allowed` weights alone (None: any); returns the last times."""

    def timed(times: Mapping[str, Times], scale: float = 1.0) -> Timed:
        def found(layer: Candidate) -> Times:
            each = times[layer.node.output[0]]
            free = allowed is None or layer.node.input[1] in allowed
            return replace(each, sparse=scale * each.sparse if free else math.inf)

        return found

    # 1. The estimate may be wrong by a factor on this machine. Greater factors give the
    # layers back that gain least first.
    for scale in (*_SCALES, *([_BOLD] if allowed is None else [])):
        trial.choose(timed(estimates, scale))

    # 2. What layers take within the whole model, dense; this does not change with the
    # choice.
    of_dense = dense_times(dense, layers.values(), trial.feed, trial.threads)
    of_sparse: dict[str, float] = {}
    times: Mapping[str, Times] = estimates
    for _ in range(_TURNS):
        # 3. The same of sparse layers, read off the fastest choice so far: another one
        # has other neighbors, and so other times.
        best = trial.best()
        if best is None:
            break
        of_sparse |= sparse_times(
            best.model, layers.values(), trial.feed, trial.threads
        )
        # Layers that were never sparse keep their estimate, scaled as those that were
        # measured turned out.
        times = corrected(estimates, of_dense, of_sparse)
        trial.choose(timed(times))
        trial.run()
    return times
