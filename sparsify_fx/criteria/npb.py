"""npb: node-path balancing, masks at initialization with many units and many paths that are in use."""

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


@CRITERIA.register("npb")
@dataclass(frozen=True)
class NodePathBalance:
    """Layer after layer, the best n positions for α · units in use + (1 − α) · paths + β · kernels in use.

    Of a layer with I input and O output units, of which P_i paths from the input of the model come to input i,
    m_io weights between i and o maximize::

        α (units with a weight) / (I + O) + (1 − α) Σ P_i m_io / most + β (kernels with a weight) / n

    where Σ m_io = n, m_io is at most `per_kernel`, and `most` are the most paths that n weights could make. n is what
    the allocation gives the layer. Within a kernel, and among equals, large weights are taken. Chosen weights score
    above 1, the others below. Only the shape of the inputs in `batches` is read; the model runs once, in evaluation
    mode.

    Attributes:
        alpha, beta: α in [0, 1] and β >= 0; those with which the published code runs ResNet-20.
        per_kernel: the most weights of a kernel, or None; more where the budget of a layer needs it.

    Raises MethodError for other numbers, and for a model that `wiring` cannot read.

    Source: [Pham 2023], section 4.
    """

    alpha: float = 0.01
    beta: float = 1.0
    per_kernel: int | None = None
    needs: ClassVar[tuple[str, ...]] = ("model", "batches")

    def __post_init__(self) -> None:
        least = self.per_kernel is None or self.per_kernel >= 1
        if not (0 <= self.alpha <= 1 and self.beta >= 0 and least):
            raise MethodError(
                f"npb: expected alpha in [0, 1], beta >= 0 and per_kernel >= 1 or None, got {self}"
            )

    def scores(self, context: PruningContext) -> Scores:
        """1 + abs(θ) scaled to [0, 1] where a weight is chosen, and without the 1 elsewhere."""
        assert context.model is not None
        inputs, _ = next(iter(scoring_batches(context)))
        with in_mode(context.model, "eval"):
            wires = wiring(context.model, context.weights, inputs[:1], "npb")
        sizes = {name: _sizes(context, name) for name in context.weights}
        room = {name: int((size >= 0).sum()) for name, size in sizes.items()}
        counts = context.allocation.counts(sizes, room, context.kept)
        left: dict[str, Tensor] = {}
        chosen = {}
        for name, wire in wires.items():
            paths = _paths(wire, left)
            mask = self._layer(_kernels(sizes[name]), paths, wire, counts[name])
            left[name] = _onwards(mask, paths, wire)
            chosen[name] = mask.reshape(sizes[name].shape)
        largest = max(float(size.max()) for size in sizes.values()) or 1.0
        return {
            name: (chosen[name] + sizes[name].clamp(min=0) / largest / 2).to(w.device)
            for name, w in context.weights.items()
        }

    def _layer(self, sizes: Tensor, paths: Tensor, wire: Wire, count: int) -> Tensor:
        """The mask of a layer, [outputs, inputs of a group, positions]; groups share the budget evenly."""
        masks, rows = [], len(sizes) // wire.groups
        for group in range(wire.groups):
            part = sizes[group * rows : (group + 1) * rows]
            own = paths.reshape(wire.groups, -1)[group]
            share = (count * (group + 1)) // wire.groups - (
                count * group
            ) // wire.groups
            masks.append(self._best(part, own, min(share, int((part >= 0).sum()))))
        mask = torch.cat(masks)
        # What a group cannot take, its weights being pruned already, goes to the largest of the others.
        missing = count - int(mask.sum())
        if missing:
            free = sizes.masked_fill(mask == 1, -1.0).flatten()
            mask.view(-1)[free.topk(missing).indices] = 1
        return mask

    def _best(self, sizes: Tensor, paths: Tensor, count: int) -> Tensor:
        """The mask of the largest value; sizes are abs(θ), −1 where nothing may be."""
        outputs, inputs, positions = sizes.shape
        if count == 0:
            return torch.zeros_like(sizes)
        most = max(self.per_kernel or positions, -(-count // (outputs * inputs)))
        order = sizes.argsort(dim=2, descending=True, stable=True)
        ranked = sizes.gather(2, order)
        free = ranked >= 0
        free[..., most:] = False
        node, path, kernel = self._prices(
            paths, count, outputs * most, inputs + outputs
        )

        # 1. Each output needs a weight, and one from an input that has none yet is worth two units. The inputs come by
        # their paths; once another unit is worth less than the paths it costs, outputs take the best input.
        taken = torch.zeros_like(free)
        for output, input_ in _pairs(ranked[..., 0], paths, node / max(path, 1e-300)):
            if int(taken.sum()) < count:
                taken[output, input_, 0] = True

        # 2. Now every weight is worth something by itself: its paths, a new kernel, a first weight of its input.
        value = (path * paths)[None, :, None].expand(sizes.shape).clone()
        value[..., 0] += kernel
        idle = ~taken.any(2).any(0)
        best = ranked[..., 0].argmax(0)
        value[best[idle], idle.nonzero().flatten(), 0] += node
        value = value.masked_fill(~free | taken, -1.0)
        taken |= _top(value, ranked, count - int(taken.sum()))
        return torch.zeros_like(sizes).scatter(2, order, taken.to(sizes.dtype))

    def _prices(
        self, paths: Tensor, count: int, per_input: int, units: int
    ) -> tuple[float, float, float]:
        """What a unit in use, a path and a kernel in use are worth."""
        full, rest = divmod(count, per_input)
        best = paths.sort(descending=True).values
        most = float(best[:full].sum()) * per_input
        most += float(best[full]) * rest if rest and full < len(best) else 0.0
        return self.alpha / units, (1 - self.alpha) / (most or 1.0), self.beta / count


def _sizes(context: PruningContext, name: str) -> Tensor:
    """abs(θ) in float64 on the CPU, −1 where it is pruned already."""
    size = context.weights[name].detach().abs().double().cpu()
    if context.alive is None:
        return size
    return size.masked_fill(context.alive[name].cpu() == 0, -1.0)


def _kernels(size: Tensor) -> Tensor:
    """[outputs, inputs of a group, positions]."""
    return size.reshape(*size.shape[:2], -1)


def _pairs(kernels: Tensor, paths: Tensor, slack: float) -> list[tuple[int, int]]:
    """(output, input) for every output: inputs by their paths, those within `slack` of the best; then the best."""
    waiting = torch.ones(len(kernels), dtype=torch.bool)
    found = []
    order = paths.argsort(descending=True, stable=True).tolist()
    best = float(paths[order[0]])
    fitting = [i for i in order if best - float(paths[i]) <= slack]
    for place in range(len(kernels)):
        input_ = fitting[place] if place < len(fitting) else order[0]
        column = kernels[:, input_].masked_fill(~waiting, -2.0)
        output = int(column.argmax())
        if float(column[output]) >= 0:
            found.append((output, input_))
            waiting[output] = False
    return found


def _top(value: Tensor, ties: Tensor, count: int) -> Tensor:
    """The `count` entries of largest value, among equals those of the largest `ties`."""
    order = ties.flatten().argsort(descending=True, stable=True)
    order = order[value.flatten()[order].argsort(descending=True, stable=True)]
    found = torch.zeros(value.numel(), dtype=torch.bool)
    found[order[:count]] = True
    return found.reshape(value.shape)


def _paths(wire: Wire, left: dict[str, Tensor]) -> Tensor:
    """How many paths come to each input unit, the largest number being 1."""
    found = torch.zeros(wire.inputs, dtype=torch.float64)
    if wire.first:
        found += 1
    for source in wire.before:
        found += left[source].repeat_interleave(wire.inputs // len(left[source]))
    return found / found.max() if found.max() > 0 else torch.ones_like(found)


def _onwards(mask: Tensor, paths: Tensor, wire: Wire) -> Tensor:
    """How many paths leave each output unit."""
    own = paths.reshape(wire.groups, 1, -1)
    return (mask.sum(2).reshape(wire.groups, -1, own.shape[2]) * own).sum(2).flatten()
