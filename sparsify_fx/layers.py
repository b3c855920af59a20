"""Which weights of a model are prunable: all of the supported layers, narrowed by `include=` and `exclude=`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from sparsify_fx.errors import LayerError, unknown
from sparsify_fx.owners import owned_tensors, prunable_tensors, qualified

Selector = str | type[nn.Module]
Selection = Selector | Iterable[Selector] | None


@dataclass(frozen=True)
class Layer:
    """One prunable tensor: its original name, and every (owner, tensor) that holds it; tied weights have several."""

    name: str
    weight: nn.Parameter
    places: tuple[tuple[nn.Module, str], ...]


def select_layers(model: nn.Module, include: Selection = None, exclude: Selection = None) -> dict[str, Layer]:
    """Every prunable weight of `model` by name, in module order.

    Args:
        include: module name patterns ("layer1.*") or module types, one or several; None selects every supported layer.
        exclude: the same; taken away from what `include` selects.

    Raises LayerError when a pattern or type matches nothing, when nothing is left, or when a selected weight cannot be
    rewritten (uninitialised, computed by a parametrization, shared with an unsupported module).
    """
    candidates = {n: m for n, m in model.named_modules(remove_duplicate=False) if prunable_tensors(m)}
    chosen = set(candidates) if include is None else _matching(model, candidates, include, "include")
    if exclude is not None:
        chosen -= _matching(model, candidates, exclude, "exclude")
    layers: dict[int, Layer] = {}
    for name in (name for name in candidates if name in chosen):
        for tensor in prunable_tensors(candidates[name]):
            _add(layers, qualified(name, tensor), candidates[name], tensor)
    if not layers:
        reason = "include= and exclude= leave none" if candidates else "it has no convolution or linear layer"
        raise LayerError(f"{type(model).__name__} has no prunable weight: {reason}")
    _refuse_foreign_ties(model, layers)
    return {layer.name: layer for layer in layers.values()}


def _matching(model: nn.Module, candidates: dict[str, nn.Module], selection: Selection, word: str) -> set[str]:
    single = isinstance(selection, (str, type))
    selectors: list[Selector] = [selection] if single else list(selection or ())  # type: ignore[arg-type,list-item]
    found: set[str] = set()
    for selector in selectors:
        if isinstance(selector, str):
            hits = {name for name in candidates if fnmatchcase(name, selector) or name.startswith(selector + ".")}
        elif isinstance(selector, type):
            inside = [n for n, m in model.named_modules() if isinstance(m, selector)]
            hits = {c for c in candidates if any(c == n or not n or c.startswith(n + ".") for n in inside)}
        else:
            raise LayerError(f"{word}= takes module name patterns and module types, not {selector!r}")
        if not hits:
            label = selector if isinstance(selector, str) else selector.__name__
            raise LayerError(f"{word}: {unknown('layer pattern or type', label, candidates)}")
        found |= hits
    return found


def _add(layers: dict[int, Layer], name: str, owner: nn.Module, tensor: str) -> None:
    if tensor in owned_tensors(owner):
        raise LayerError(
            f"{name} is already computed by a weight program; call sparsify_fx.merge(model) before a new apply"
        )
    weight = owner._parameters.get(tensor)
    if isinstance(weight, UninitializedParameter):
        raise LayerError(f"{name} is not initialised yet; run one batch through the model, then apply")
    if weight is None:
        raise LayerError(
            f"{name} is not a plain parameter of its {type(owner).__name__} (weight_norm or another parametrization); "
            "remove the parametrization first, or leave the layer out with exclude="
        )
    if not weight.is_floating_point():
        raise LayerError(f"{name} has dtype {weight.dtype}; only floating weights can be trained sparse")
    known = layers.get(id(weight))
    places = (*(known.places if known else ()), (owner, tensor))
    layers[id(weight)] = Layer(known.name if known else name, weight, tuple(dict.fromkeys(places)))


def _refuse_foreign_ties(model: nn.Module, layers: dict[int, Layer]) -> None:
    """A tensor that an unselected module holds too would silently come apart."""
    selected = {(id(owner), tensor) for layer in layers.values() for owner, tensor in layer.places}
    for name, module in model.named_modules():
        for tensor, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in layers and (id(module), tensor) not in selected:
                raise LayerError(
                    f"{layers[id(parameter)].name} is tied to {qualified(name, tensor)}, whose {type(module).__name__} "
                    "is not selected or not supported; leave the layer out with exclude="
                )


def is_finite(layer: Layer) -> bool:
    """Whether every entry of the layer's weight is finite."""
    return bool(torch.isfinite(layer.weight.detach()).all())
