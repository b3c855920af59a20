"""Which weights of a model are prunable: all of the supported layers, narrowed by `include=` and `exclude=`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from sparsify_fx.errors import LayerError, unknown
from sparsify_fx.programs.owner_kinds import OwnerKind, kind_of, refusal
from sparsify_fx.programs.owners import owned_tensors, qualified
from sparsify_fx.programs.program import WeightProgram

Selector = str | type[nn.Module]
Selection = Selector | Iterable[Selector] | None


@dataclass(frozen=True)
class Layer:
    """One prunable tensor: its original name, and every (owner, tensor) that holds it; tied weights have several."""

    name: str
    weight: nn.Parameter
    places: tuple[tuple[nn.Module, str], ...]


def select_layers(
    model: nn.Module, include: Selection = None, exclude: Selection = None
) -> dict[str, Layer]:
    """Every prunable weight of `model` by name, in module order.

    Args:
        include: module name patterns ("layer1.*") or module types, one or several; None selects every supported layer
            but embeddings. Embeddings and other matrices ("blocks.0.w_g", a parameter's own name or a pattern for it)
            are pruned only when `include` selects them.
        exclude: the same; taken away from what `include` selects.

    Raises LayerError when a pattern or type matches nothing, when nothing is left, or when a selected weight cannot be
    rewritten (uninitialized, computed by a parametrization, scripted, quantized).
    """
    candidates = _candidates(model)
    # 1. What is pruned when nobody says what: embeddings and loose matrices only by name.
    usual = {
        name
        for name, (module, _, kind) in candidates.items()
        if kind is not None and kind.default
    }
    chosen = (
        usual if include is None else _matching(model, candidates, include, "include")
    )
    if exclude is not None:
        chosen = chosen - _matching(model, candidates, exclude, "exclude")

    # 2. By tensor: a tied weight that several names select is one layer.
    layers: dict[int, Layer] = {}
    for name in (name for name in candidates if name in chosen):
        _add(layers, name, *candidates[name][:2])
    if not layers:
        reason = (
            "include= and exclude= leave none"
            if usual
            else "it has no convolution, linear or recurrent layer"
        )
        raise LayerError(f"{type(model).__name__} has no prunable weight: {reason}")
    return {layer.name: layer for layer in _with_ties(model, layers).values()}


Candidates = dict[str, tuple[nn.Module, str, OwnerKind | None]]


def _candidates(model: nn.Module) -> Candidates:
    """(module, tensor, kind) by the name of every tensor that could be pruned; kind is None for loose matrices."""
    found: Candidates = {}
    for name, module in model.named_modules(remove_duplicate=False):
        reason = refusal(module)
        if reason is not None:
            raise LayerError(f"{name or 'the model'} {reason}")
        # Its factors are matrices too, and nobody means those.
        if isinstance(module, WeightProgram):
            continue
        kind = kind_of(module)
        for tensor in () if kind is None else kind.tensors(module):
            found[qualified(name, tensor)] = (module, tensor, kind)
        for tensor, parameter in module._parameters.items():
            full = qualified(name, tensor)
            if (
                full not in found
                and parameter is not None
                and not _lazy(parameter)
                and parameter.ndim >= 2
            ):
                found[full] = (module, tensor, None)
    return found


def _lazy(parameter: nn.Parameter) -> bool:
    return isinstance(parameter, UninitializedParameter)


def _matching(
    model: nn.Module, candidates: Candidates, selection: Selection, word: str
) -> set[str]:
    single = isinstance(selection, (str, type))
    selectors: list[Selector] = [selection] if single else list(selection or ())  # type: ignore[arg-type,list-item]
    found: set[str] = set()
    for selector in selectors:
        if isinstance(selector, str):
            hits = {
                name
                for name, entry in candidates.items()
                if _named(name, entry, selector)
            }
        elif isinstance(selector, type):
            # A block's type selects the layers within it, as its name does.
            inside: set[int] = set()
            for m in model.modules():
                if isinstance(m, selector):
                    inside.update(map(id, m.modules()))
            hits = {
                name
                for name, (m, _, kind) in candidates.items()
                if id(m) in inside and kind is not None
            }
        else:
            raise LayerError(
                f"{word}= takes module name patterns and module types, not {selector!r}"
            )
        # A pattern that hits nothing is misspelled, and would leave a layer dense without a word.
        if not hits:
            label = selector if isinstance(selector, str) else selector.__name__
            modules = [
                name.rpartition(".")[0]
                for name, (_, _, kind) in candidates.items()
                if kind is not None
            ]
            raise LayerError(
                f"{word}: {unknown('layer pattern or type', label, dict.fromkeys(modules))}"
            )
        found |= hits
    return found


def _named(
    name: str, entry: tuple[nn.Module, str, OwnerKind | None], pattern: str
) -> bool:
    """A layer goes by the name of its module, or of one above it; a loose matrix only by its own."""
    if entry[2] is None:
        return fnmatchcase(name, pattern) and pattern != "*"
    return matches(name, pattern)


def matches(name: str, pattern: str) -> bool:
    """Whether a selected weight goes by `pattern`: its layer, a module above it, or the weight itself.

    >>> matches("layer1.0.conv.weight", "layer1"), matches("fc.weight", "f*"), matches("fc.weight", "conv")
    (True, True, False)
    """
    module = name.rpartition(".")[0]
    return (
        fnmatchcase(module, pattern)
        or module.startswith(pattern + ".")
        or fnmatchcase(name, pattern)
    )


def _add(layers: dict[int, Layer], name: str, owner: nn.Module, tensor: str) -> None:
    if tensor in owned_tensors(owner):
        raise LayerError(
            f"{name} is already computed by a weight program; call sparsify_fx.merge(model) before a new apply, or "
            "give the rest of the model a plan of its own with include= or exclude="
        )
    weight = owner._parameters.get(tensor)
    if isinstance(weight, UninitializedParameter):
        raise LayerError(
            f"{name} is not initialized yet; run one batch through the model, then apply"
        )
    if weight is None:
        raise LayerError(
            f"{name} is not a plain parameter of its {type(owner).__name__} (weight_norm or another parametrization); "
            f"remove the parametrization first, {_made_of(name, owner, tensor)}or leave the layer out with exclude="
        )
    reason = _untrainable(weight)
    if reason is not None:
        raise LayerError(f"{name} {reason}, or leave the layer out with exclude=")
    known = layers.get(id(weight))
    places = (*(known.places if known else ()), (owner, tensor))
    layers[id(weight)] = Layer(
        known.name if known else name, weight, tuple(dict.fromkeys(places))
    )


def _untrainable(weight: nn.Parameter) -> str | None:
    """Why no program can compute this parameter, and what to do; None when one can."""
    if not _plain(weight):
        return (
            f"has the type {type(weight).__name__}, quantized, packed or sharded by another library, without entries "
            "of its own that could be masked and trained; sparsify the plain model first, then convert it"
        )
    if weight.dtype not in (
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
    ):
        return f"has dtype {weight.dtype}; only floating weights can be trained sparse: sparsify first, then quantize"
    if weight.is_inference():
        return "was made under torch.inference_mode and can never be trained; copy it: nn.Parameter(weight.clone())"
    # An expanded tensor has fewer numbers in memory than entries: writing a mask to one would write several.
    if any(
        stride == 0 and size > 1
        for stride, size in zip(weight.stride(), weight.shape, strict=True)
    ):
        return "is expanded, several of its entries are one; make it whole: nn.Parameter(weight.contiguous())"
    return None


def _plain(weight: nn.Parameter) -> bool:
    """Whether a parameter is a tensor of numbers; types of other libraries intercept operations or keep scales."""
    kind = type(weight)
    intercepts = (
        kind.__torch_function__ != nn.Parameter.__torch_function__
        or kind.__torch_dispatch__ != nn.Parameter.__torch_dispatch__
        or type(weight.data) is not Tensor
    )
    # bitsandbytes keeps its scales in attributes of a parameter that intercepts nothing.
    return not intercepts and not any(
        hasattr(weight, name) for name in ("quant_state", "SCB", "CB")
    )


def _made_of(name: str, owner: nn.Module, tensor: str) -> str:
    """The advice to select the matrices of the same shape that a parametrization computes the tensor from."""
    value = getattr(owner, tensor, None)
    shape = value.shape if isinstance(value, Tensor) else None
    module = name.rpartition(".")[0]
    matrices = [
        qualified(module, own)
        for own, p in owner.named_parameters()
        if p.shape == shape and tensor in own
    ]
    return (
        f"select what it is made of with include={matrices[0]!r}, " if matrices else ""
    )


def _with_ties(model: nn.Module, layers: dict[int, Layer]) -> dict[int, Layer]:
    """The layers with all places that hold the same tensor, whatever their module, named by the first: one program.

    Left out, a tied tensor would silently come apart into a pruned and a dense one.
    """
    found: dict[int, Layer] = {}
    for name, module in model.named_modules():
        for tensor, parameter in module._parameters.items():
            layer = layers.get(id(parameter))
            if layer is not None:
                # By walking the whole model: places that no pattern selected are among them.
                first = found.get(
                    id(parameter),
                    replace(layer, name=qualified(name, tensor), places=()),
                )
                found[id(parameter)] = replace(
                    first, places=(*first.places, (module, tensor))
                )
    return found


def is_finite(layer: Layer) -> bool:
    """Whether every entry of the layer's weight is finite."""
    return bool(torch.isfinite(layer.weight.detach()).all())
