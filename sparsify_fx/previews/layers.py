"""summary: the layers of a model with their shapes, densities and multiply-adds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.table import Table
from torch import nn

from sparsify_fx.budgets import count_multiply_adds
from sparsify_fx.budgets.plain import call_of, check_whole
from sparsify_fx.errors import LayerError
from sparsify_fx.masks import kept_count
from sparsify_fx.plan import plans_of
from sparsify_fx.programs.owner_kinds import kind_of
from sparsify_fx.programs.owners import owned_tensors, programs, qualified
from sparsify_fx.programs.program import WeightProgram
from sparsify_fx.scheduler.parts import parts_of
from sparsify_fx.tables.fitting import FittingTable
from sparsify_fx.tables.shown import Shown


@dataclass(frozen=True)
class LayerSummary:
    """One prunable weight.

    Attributes:
        weights: how many entries it has.
        nonzeros: how many of them its mask keeps; without a mask, how many are not zero.
        macs: multiply-adds of the dense weight for the example inputs; None without them.
        pruned: whether `apply` has made it a weight program.
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    nonzeros: int
    macs: int | None
    pruned: bool

    @property
    def density(self) -> float:
        """nonzeros / weights."""
        return self.nonzeros / self.weights if self.weights else 1.0

    @property
    def macs_left(self) -> float | None:
        """Multiply-adds with weights that are not zero: macs · density."""
        return None if self.macs is None else self.macs * self.density


@dataclass(frozen=True, repr=False)
class Summary(Shown):
    """What `summary` found; prints as a table, shows as HTML in notebooks.

    Attributes:
        model: the name of its class.
        layers: prunable weights, in module order.
        other_parameters: entries of all other parameters: biases, norms, embeddings, excluded layers.
        other_macs: multiply-adds of everything else, such as products within attention; None without inputs.
        plans: what `apply` was asked for, in words; empty for a plain or merged model.
    """

    model: str
    layers: tuple[LayerSummary, ...]
    other_parameters: int
    other_macs: int | None = None
    plans: tuple[str, ...] = ()

    @property
    def weights(self) -> int:
        """Prunable weights."""
        return sum(layer.weights for layer in self.layers)

    @property
    def nonzeros(self) -> int:
        """Those that are left."""
        return sum(layer.nonzeros for layer in self.layers)

    @property
    def density(self) -> float:
        """nonzeros / weights."""
        return self.nonzeros / self.weights

    @property
    def macs(self) -> int | None:
        """Multiply-adds of the dense model; None without example inputs."""
        if self.other_macs is None:
            return None
        return sum(layer.macs or 0 for layer in self.layers) + self.other_macs

    @property
    def macs_left(self) -> float | None:
        """Those with weights that are not zero, and all others."""
        if self.other_macs is None:
            return None
        return sum(layer.macs_left or 0.0 for layer in self.layers) + self.other_macs

    def headline(self) -> str:
        """Weights and multiply-adds that are left."""
        told = f"{self.model}, {self.nonzeros:,} of {self.weights:,} weights ({self.density:.2%})"
        if self.macs is None or self.macs_left is None:
            return told
        return f"{told}, {_short(self.macs_left)} of {_short(self.macs)} multiply-adds"

    def to_dict(self) -> dict[str, Any]:
        """All fields, layers with density and multiply-adds left, JSON-ready."""
        rows = [
            asdict(row) | {"density": row.density, "macs_left": row.macs_left}
            for row in self.layers
        ]
        totals = {
            "weights": self.weights,
            "nonzeros": self.nonzeros,
            "density": self.density,
            "macs": self.macs,
            "macs_left": self.macs_left,
        }
        return asdict(self) | totals | {"layers": rows, "plans": list(self.plans)}

    def table(self) -> Table:
        """A row for each layer; shares are of all weights, and of all multiply-adds, that are left."""
        table = FittingTable(title=self.headline(), spare=("MACs", "share of MACs"))
        for place, column in enumerate(self._columns()):
            table.add_column(column, justify="right" if place else "left", no_wrap=True)
        for layer in self.layers:
            table.add_row(*self._row(layer))
        told = [f"{self.other_parameters:,} other parameters are not pruned"]
        if self.other_macs:
            told.append(
                f"{_short(self.other_macs)} multiply-adds are of no weight here"
            )
        if self.other_macs is None:
            told.append("multiply-adds: give example_inputs=")
        table.caption = "\n".join(["; ".join(told), *self.plans])
        return table

    def _columns(self) -> tuple[str, ...]:
        more = () if self.macs is None else ("MACs", "MACs left", "share of MACs")
        return ("layer", "shape", "density", "left", "share", *more)

    def _row(self, layer: LayerSummary) -> tuple[str, ...]:
        cells = (
            layer.name if layer.pruned or not self.plans else f"{layer.name} (dense)",
            "×".join(map(str, layer.shape)),
            f"{layer.density:.2%}",
            f"{layer.nonzeros:,}",
            f"{layer.nonzeros / max(1, self.nonzeros):.1%}",
        )
        if layer.macs is None or layer.macs_left is None:
            return cells
        share = layer.macs_left / max(1.0, self.macs_left or 1.0)
        return (*cells, _short(layer.macs), _short(layer.macs_left), f"{share:.1%}")


def summary(model: nn.Module, example_inputs: Any = None) -> Summary:
    """The prunable layers of a model, before or after `apply`, merged or read from a file; it is only read.

    density = weights that are left / weights; multiply-adds left = multiply-adds · density.

    Args:
        model: a plain model, whose zeros count, or one that `apply` rewrote, whose masks count.
        example_inputs: what one forward takes, for multiply-adds: a tensor, a tuple of arguments, a dict by name.

    Raises LayerError for a model without prunable layers, one with weights without values, one that `fully_shard`
    spread over processes, or inputs that it does not take.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 10))
    >>> import sparsify_fx, torch
    >>> _ = sparsify_fx.apply(net, "random", sparsity=0.75)
    >>> summary(net, torch.ones(1, 3, 4, 4))
    <Summary: Sequential, 134 of 536 weights (25.00%), 335 of 1,184 multiply-adds>
    """
    check_whole(model)
    found = dict(_layers(model))
    if not found:
        raise LayerError(
            f"{type(model).__name__} has no prunable weight: it has no convolution, linear or recurrent layer"
        )
    work = None
    if example_inputs is not None:
        work = count_multiply_adds(model, call_of(example_inputs))
    rows = tuple(
        LayerSummary(
            name,
            shape,
            shape.numel(),
            nonzeros,
            None if work is None else work.by_weight.get(name, 0),
            pruned,
        )
        for name, (shape, nonzeros, pruned) in found.items()
    )
    others = None if work is None else work.total - sum(row.macs or 0 for row in rows)
    return Summary(
        type(model).__name__, rows, _others(model, found), others, tuple(_plans(model))
    )


def _layers(model: nn.Module) -> Iterator[tuple[str, tuple[torch.Size, int, bool]]]:
    """(name, (shape, weights left, whether it is a program)) of every prunable weight, in module order."""
    made, seen = programs(model), set[int]()
    # A tied weight goes by the first of its names, as in `apply`, whichever of its layers is prunable.
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for prefix, module in model.named_modules():
        kind = kind_of(module)
        computed = owned_tensors(module)
        usual = () if kind is None or not kind.default else kind.tensors(module)
        for tensor in dict.fromkeys((*usual, *computed)):
            name = qualified(prefix, tensor)
            if tensor in computed:
                # Tied weights are listed under the first of their names.
                if name in made:
                    yield name, _of_program(made[name])
                continue
            weight = module._parameters.get(tensor)
            # What a parametrization computes is no parameter, and `apply` does not take it either.
            if weight is not None and id(weight) not in seen:
                seen.add(id(weight))
                name = names[id(weight)]
                yield name, (weight.shape, int(weight.detach().count_nonzero()), False)


def _of_program(program: WeightProgram) -> tuple[torch.Size, int, bool]:
    mask = program.current_mask()
    values = program.effective() if mask is None else mask
    return program.full_shape(), int(values.count_nonzero()), True


def _others(model: nn.Module, listed: Iterable[str]) -> int:
    """Entries of parameters that are neither listed nor a part of a program."""
    names = set(listed)
    inside: set[int] = set()
    for program in programs(model).values():
        inside |= {id(parameter) for parameter in program.parameters()}
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if name not in names and id(parameter) not in inside
    )


def _plans(model: nn.Module) -> Iterator[str]:
    """What each part of the model was asked for."""
    if not plans_of(model):
        return
    for part in parts_of(model, strict=False):
        total = part.total()
        asked = kept_count(total, part.plan.sparsity)
        told = f"{part.plan.method} ends with {asked:,} of {total:,} weights"
        budget = part.plan.met
        yield part.says(told if budget is None else f"{told}: {budget.sentence()}")


def _short(count: float) -> str:
    """A number with three digits and a letter: 40.6M."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return f"{round(count):,}"
