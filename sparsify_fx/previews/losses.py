"""sensitivity: the loss against the sparsity of each layer alone."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.utils import _pytree

from sparsify_fx.budgets.plain import call_of, plain_copy, untouched_randomness
from sparsify_fx.errors import MethodError
from sparsify_fx.masks import kept_count, top_mask
from sparsify_fx.programs.selection import Layer, Selection, select_layers
from sparsify_fx.tables.fitting import FittingTable
from sparsify_fx.tables.shown import Shown

_LOG = logging.getLogger(__name__)
LossFn = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class LayerSensitivity:
    """One layer: the loss of the model at each sparsity of this layer alone."""

    name: str
    weights: int
    losses: tuple[float, ...]


@dataclass(frozen=True, repr=False)
class Sensitivity(Shown):
    """What `sensitivity` found; prints as a table, shows as HTML in notebooks.

    Attributes:
        dense: the loss of the model as it is.
        sparsities: of one layer at a time.
        layers: in module order.
        samples: how many the losses are means of.
    """

    dense: float
    sparsities: tuple[float, ...]
    layers: tuple[LayerSensitivity, ...]
    samples: int

    def headline(self) -> str:
        """The loss as it is, and the layer that costs most."""
        worst = max(self.layers, key=lambda layer: layer.losses[-1])
        return (
            f"loss {self.dense:.4g} on {self.samples:,} samples; most sensitive at {self.sparsities[-1]:g}: "
            f"{worst.name} ({worst.losses[-1]:.4g})"
        )

    def to_dict(self) -> dict[str, Any]:
        """All numbers, JSON-ready."""
        return {
            "dense": self.dense,
            "sparsities": list(self.sparsities),
            "samples": self.samples,
            "layers": [
                asdict(row) | {"losses": list(row.losses)} for row in self.layers
            ],
        }

    def table(self) -> Table:
        """A row for each layer, with the loss at every sparsity."""
        table = FittingTable(
            title=f"loss {self.dense:.4g} as it is; by layer and sparsity"
        )
        table.add_column("layer", no_wrap=True)
        for name in ("weights", *(f"{each:g}" for each in self.sparsities)):
            table.add_column(name, justify="right", no_wrap=True)
        for layer in self.layers:
            losses = (f"{loss:.4g}" for loss in layer.losses)
            table.add_row(layer.name, f"{layer.weights:,}", *losses)
        return table

    def draw(self, figure: Any) -> None:
        """The picture, into an empty matplotlib Figure: the loss over the layers, a line for each sparsity."""
        from sparsify_fx.analysis.figures import layer_lines
        from sparsify_fx.figures import legend, panels

        (axes,) = panels(figure)
        layer_lines(
            axes,
            {
                f"{sparsity:g}": {
                    layer.name: layer.losses[place] for layer in self.layers
                }
                for place, sparsity in enumerate(self.sparsities)
            },
        )
        axes.axhline(self.dense, color="0.4", linewidth=0.8, label="as it is")
        axes.set_ylabel("loss")
        legend(figure, axes)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture as a .png, .svg or .pdf file, and return its path.

        Raises AnalysisError without matplotlib (extra `plot`), UnknownNameError for another ending.
        """
        from sparsify_fx.figures import check_look, look, save

        place = Path(path)
        wanted = check_look(look([place.suffix.removeprefix(".")]))
        return Path(save(place.with_suffix(""), self.draw, wanted)[0])


def sensitivity(
    model: nn.Module,
    batches: Iterable[Any],
    loss_fn: LossFn | None = None,
    *,
    sparsities: Sequence[float] = (0.5, 0.8, 0.9, 0.95, 0.99),
    include: Selection = None,
    exclude: Selection = None,
    seed: int = 0,
) -> Sensitivity:
    """The mean loss when one layer alone loses its smallest weights, for each layer and sparsity.

    A copy is evaluated, with plain weights and in evaluation mode, layers · sparsities + 1 times a batch; the model,
    its running statistics and all random states stay as they are, to the bit. Of a model that `apply` rewrote, what is
    pruned already stays pruned. Every setting sees the same batches and random numbers.

    Args:
        batches: (inputs, targets) pairs, inputs being a tensor, a tuple of arguments or a dict by name; or dicts that
            are the arguments, labels among them. Each is read once.
        loss_fn: loss_fn(outputs, targets) -> the scalar mean over a batch; of a dict, loss_fn(outputs, batch). None
            takes the `loss` of the outputs, as the models of transformers give it when they get labels.
        sparsities: fractions of the layer that go, in [0, 1); one weight stays at least.
        include, exclude: which layers, as in `apply`.
        seed: of what the model draws in evaluation mode, if anything.

    Raises SparsityError for a sparsity outside [0, 1), MethodError for batches
    that give no loss, LayerError for a model without prunable layers or spread over processes.

    >>> net = nn.Linear(4, 2)
    >>> found = sensitivity(net, [(torch.ones(3, 4), torch.zeros(3, 2))], nn.functional.mse_loss, sparsities=[0, 0.5])
    >>> found.layers[0].losses[0] == found.dense, [layer.name for layer in found.layers]
    (True, ['weight'])
    """
    copied = plain_copy(model)
    layers = select_layers(copied, include, exclude)
    chosen = tuple(float(sparsity) for sparsity in sparsities)
    if not chosen:
        raise MethodError("sparsities= is empty; give some, such as (0.5, 0.9)")
    # Before any batch is read: what is no sparsity of any layer is told now.
    for each in chosen:
        kept_count(2**40, each)
    masks = {name: _masks(layer, chosen) for name, layer in layers.items()}

    total: dict[tuple[str, int], float] = dict.fromkeys(_settings(masks), 0.0)
    dense, samples = 0.0, 0
    with untouched_randomness(), torch.no_grad():
        for batch in batches:
            given, count = _on_device(batch, copied), _count(batch)

            def loss(given: Any = given) -> float:
                torch.manual_seed(seed)
                return _loss(copied, given, loss_fn)

            dense += count * loss()
            for name, place in total:
                with _pruned(layers[name].weight, masks[name][place]):
                    total[name, place] += count * loss()
            samples += count
            _LOG.info("%d samples, %d settings", samples, len(total))
    if not samples:
        raise MethodError(
            "batches= is empty; give a list or a loader that can be read, not a spent iterator"
        )
    rows = tuple(
        LayerSensitivity(
            name,
            layer.weight.numel(),
            tuple(total[name, place] / samples for place in range(len(chosen))),
        )
        for name, layer in layers.items()
    )
    return Sensitivity(dense / samples, chosen, rows, samples)


def _settings(masks: Mapping[str, Sequence[Tensor]]) -> Iterator[tuple[str, int]]:
    for name, found in masks.items():
        yield from ((name, place) for place in range(len(found)))


def _masks(layer: Layer, sparsities: Sequence[float]) -> list[Tensor]:
    """Masks of the largest weights, one byte an entry; a layer too small for a sparsity keeps one weight."""
    size = layer.weight.detach().abs()
    if not size.numel():
        return [torch.ones_like(size, dtype=torch.uint8) for _ in sparsities]
    kept = (math.floor((1 - each) * size.numel() + 0.5) for each in sparsities)
    return [top_mask(size, max(1, each)) for each in kept]


class _pruned:
    """The weight of a copy under a mask, for as long as the block lasts."""

    def __init__(self, weight: Tensor, mask: Tensor) -> None:
        self.weight, self.mask = weight, mask

    def __enter__(self) -> None:
        self.before = self.weight.detach().clone()
        self.weight.mul_(self.mask)

    def __exit__(self, *_: object) -> None:
        self.weight.copy_(self.before)


def _loss(model: nn.Module, batch: Any, loss_fn: LossFn | None) -> float:
    if isinstance(batch, Mapping):
        inputs, targets = batch, batch
    elif isinstance(batch, (tuple, list)) and len(batch) == 2:
        inputs, targets = batch
    else:
        raise MethodError(
            f"batches= must give (inputs, targets) pairs or dicts of arguments, got {type(batch).__name__}"
        )
    args, kwargs = call_of(inputs)
    outputs = model(*args, **kwargs)
    value: Any
    if loss_fn is not None:
        value = loss_fn(outputs, targets)
    else:
        named = isinstance(outputs, Mapping)
        value = outputs.get("loss") if named else getattr(outputs, "loss", None)
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise MethodError(
            "the model gave no loss for a batch; pass loss_fn=, a function of outputs and targets to one number, "
            "such as torch.nn.functional.cross_entropy, or batches with labels to a model that returns its loss"
        )
    return float(value)


def _on_device(batch: Any, model: nn.Module) -> Any:
    device = next(model.parameters()).device
    # Mappings of other libraries are no trees of torch's, so they become dicts first.
    plain = dict(batch) if isinstance(batch, Mapping) else batch
    if isinstance(plain, (tuple, list)):
        plain = [dict(x) if isinstance(x, Mapping) else x for x in plain]
    return _pytree.tree_map_only(Tensor, lambda x: x.to(device), plain)


def _count(batch: Any) -> int:
    """Samples of a batch: the first length of its first tensor that has one."""
    plain = dict(batch) if isinstance(batch, Mapping) else batch
    tensors = (x for x in _pytree.tree_leaves(plain) if isinstance(x, Tensor))
    return next((int(x.shape[0]) for x in tensors if x.dim()), 1)
