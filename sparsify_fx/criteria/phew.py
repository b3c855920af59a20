"""phew: paths with higher edge weights, random walks over the net at initialization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsify_fx.criteria.base import CRITERIA, PruningContext, Scores
from sparsify_fx.criteria.objective import scoring_batches
from sparsify_fx.criteria.scoring_mode import in_mode
from sparsify_fx.errors import MethodError
from sparsify_fx.programs.wiring import Wire, wiring

# Walks that are made at once.
_BATCH = 4096
_NEVER = torch.iinfo(torch.int64).max


@CRITERIA.register("phew")
@dataclass(frozen=True)
class Phew:
    """Minus the number of the random walk that first came over the weight.

    Walks start at the units of the input and, every other one, of the output, in turn. Forwards a walk goes from unit j
    to unit i of the next layer with probability Σ_k abs(θ_ijk) / Σ_i'k abs(θ_i'jk), backwards from i to j with
    Σ_k abs(θ_ijk) / Σ_j'k abs(θ_ij'k), k the positions of a kernel, and over one of them with
    abs(θ_ijk) / Σ_k' abs(θ_ijk').
    Where several layers come next (branches, skips) it takes one at random. They go on until as many weights as are to
    stay have been walked over; after `patience` walks for each of these the largest of the others fill up.

    Only the shape of the inputs in `batches` is read; the model runs once, in evaluation mode.

    Attributes:
        patience: > 0; low sparsities need many walks for the last weights.

    Raises MethodError for a model that `wiring` cannot read.

    Source: [Patil 2021], section 4 and algorithm 1.
    """

    patience: float = 20.0
    needs: ClassVar[tuple[str, ...]] = ("model", "batches")

    def __post_init__(self) -> None:
        if not self.patience > 0:
            raise MethodError(f"phew: patience={self.patience!r} must be > 0")

    def scores(self, context: PruningContext) -> Scores:
        """Negative numbers of walks; below all of them what no walk came over, by size."""
        assert context.model is not None
        inputs, _ = next(iter(scoring_batches(context)))
        with in_mode(context.model, "eval"):
            wires = wiring(context.model, context.weights, inputs[:1], "phew")
        walks = _Walks(context, wires)
        while walks.missing() > 0 and walks.made <= self.patience * context.kept:
            walks.more()
        scores = {}
        for name, first in walks.first.items():
            size = context.weights[name].abs().double().cpu()
            # In (−made − 1, −made − 2): below every walk, larger weights first.
            others = -(walks.made + 2.0) + size / (1 + size)
            found = torch.where(first == _NEVER, others, -first.double())
            scores[name] = found.to(context.weights[name].device)
        return scores


class _Walks:
    """The walks that were made, and the first of them over each weight."""

    def __init__(self, context: PruningContext, wires: dict[str, Wire]) -> None:
        self.wires, self.generator = wires, context.generator
        self.kept, self.made = context.kept, 0
        self.after = {
            name: [other for other, w in wires.items() if name in w.before]
            for name in wires
        }
        # abs(θ) as [outputs, inputs of a group, positions], of what is alive.
        self.sizes, self.first = {}, {}
        for name, weight in context.weights.items():
            alive = 1 if context.alive is None else context.alive[name]
            size = (weight.detach().abs() * alive).double().cpu()
            self.sizes[name] = size.reshape(*size.shape[:2], -1)
            self.first[name] = torch.full(weight.shape, _NEVER)

    def missing(self) -> int:
        """How many weights still have to be walked over."""
        return self.kept - sum(int((f != _NEVER).sum()) for f in self.first.values())

    def more(self) -> None:
        """A batch of walks, forwards and backwards in turn."""
        number = self.made + torch.arange(_BATCH)
        for forward in (True, False):
            self._walk(number[number % 2 == (not forward)], forward)
        self.made += _BATCH

    def _walk(self, number: Tensor, forward: bool) -> None:
        # 1. Each walk starts at a layer of that end, at the units of it in turn.
        wires = self.wires
        ends = [n for n, w in wires.items() if (w.first if forward else w.last)]
        at = self._draw(len(number), len(ends))
        layer_of = {name: at == place for place, name in enumerate(ends)}
        unit = torch.zeros(len(number), dtype=torch.int64)
        for name, here in layer_of.items():
            units = wires[name].inputs if forward else wires[name].outputs
            unit[here] = (number[here] // 2) % units
        # 2. Layer after layer, in the order of the run or against it, so that every walk is taken along once.
        for name in wires if forward else reversed(list(wires)):
            if name not in layer_of or not layer_of[name].any():
                continue
            here = layer_of[name]
            next_, going = self._step(name, unit[here], number[here], forward)
            places = here.nonzero().flatten()[going]
            self._hand_on(name, places, next_[going], forward, (layer_of, unit))

    def _hand_on(
        self,
        name: str,
        places: Tensor,
        reached: Tensor,
        forward: bool,
        state: tuple[dict[str, Tensor], Tensor],
    ) -> None:
        """Give the walks at `places`, which reached these units, to layers that come next."""
        layer_of, unit = state
        following = self.after[name] if forward else list(self.wires[name].before)
        ended = self.wires[name].last if forward else self.wires[name].first
        ways = [*following, *([None] if ended else [])]
        chosen = self._draw(len(places), max(1, len(ways)))
        for way, other in enumerate(ways):
            if other is None:
                continue
            here, now = places[chosen == way], reached[chosen == way]
            # After flattening a unit of the one has several of the other, all its positions.
            front, back = (name, other) if forward else (other, name)
            ratio = self.wires[back].inputs // self.wires[front].outputs
            unit[here] = (
                now * ratio + self._draw(len(now), ratio) if forward else now // ratio
            )
            taken = layer_of.setdefault(other, torch.zeros(len(unit), dtype=torch.bool))
            taken[here] = True

    def _step(
        self, name: str, unit: Tensor, number: Tensor, forward: bool
    ) -> tuple[Tensor, Tensor]:
        """(the units that are reached, whether there was a way), with the walks' numbers noted at the weights."""
        wire, sizes = self.wires[name], self.sizes[name]
        rows, columns = len(sizes) // wire.groups, sizes.shape[1]
        # 1. The unit on the other side, within the group.
        if forward:
            group, inner = unit // columns, unit % columns
            edges = sizes.sum(2).reshape(wire.groups, rows, columns)[group, :, inner]
        else:
            group, edges = unit // rows, sizes.sum(2)[unit]
        picked, going = self._pick(edges)
        row = group * rows + picked if forward else unit
        column = inner if forward else picked
        # 2. The position in the kernel.
        position, _ = self._pick(sizes[row, column])
        flat = (row * columns + column) * sizes.shape[2] + position
        first = self.first[name].flatten()
        first.scatter_reduce_(0, flat[going], number[going], "amin")
        self.first[name] = first.reshape(self.first[name].shape)
        return row if forward else group * columns + picked, going

    def _pick(self, edges: Tensor) -> tuple[Tensor, Tensor]:
        """For each row an index with a probability in proportion to its entries, and whether any is above zero."""
        sums = edges.cumsum(1)
        draw = torch.rand(len(edges), 1, generator=self.generator, dtype=torch.float64)
        picked = torch.searchsorted(sums, draw * sums[:, -1:], right=True)
        return picked[:, 0].clamp(max=edges.shape[1] - 1), sums[:, -1] > 0

    def _draw(self, count: int, below: int) -> Tensor:
        return torch.randint(below, (count,), generator=self.generator)
