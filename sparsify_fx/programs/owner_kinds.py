"""Which tensors of which modules are prunable, and what else an owner of that kind needs to go on working."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class OwnerKind:
    """One kind of module that owns prunable weights.

    Attributes:
        matches: whether a module is of this kind (by type, subclasses included).
        tensors: the names of its prunable tensors.
        default: False for kinds that are pruned only when `include=` selects them.
        members: class members that a rewritten owner gets beside its computed weights.
        restored: called on the plain module after the last weight was merged.
        layout: where the inputs of an output unit lie, as the fields of an `InputLayout`; else along dimension 1.
    """

    matches: Callable[[nn.Module], bool]
    tensors: Callable[[nn.Module], tuple[str, ...]]
    default: bool = True
    members: Mapping[str, Any] = field(default_factory=dict)
    restored: Callable[[nn.Module], None] = lambda module: None
    layout: Callable[[nn.Module], dict[str, Any]] = lambda module: {}


def _typed(kind: type[nn.Module], *names: str, default: bool = True) -> OwnerKind:
    return OwnerKind(
        lambda module: isinstance(module, kind), lambda module: names, default
    )


def class_of(module_name: str, class_name: str) -> Callable[[nn.Module], bool]:
    """Instances of a class of another library, which is looked up only once that library was imported."""

    def matches(module: nn.Module) -> bool:
        # Not imported for this: whoever has such a layer has imported its library.
        kind = getattr(sys.modules.get(module_name), class_name, None)
        return kind is not None and isinstance(module, kind)

    return matches


def _present(*names: str) -> Callable[[nn.Module], tuple[str, ...]]:
    """Those of the names that are parameters of the module, or are computed by a program already."""

    def tensors(module: nn.Module) -> tuple[str, ...]:
        # Read from the class, so that a second `apply` sees the same tensors; the parameter is None by then.
        computed = getattr(type(module), "_sparsify_fx_tensors", ())
        return tuple(
            n for n in names if module._parameters.get(n) is not None or n in computed
        )

    return tensors


def _recurrent_tensors(module: nn.Module) -> tuple[str, ...]:
    assert isinstance(module, nn.RNNBase)
    return tuple(
        name for name in module._flat_weights_names if name.startswith("weight")
    )


def _flat_weights(module: nn.Module) -> list[Tensor]:
    assert isinstance(module, nn.RNNBase)
    return [getattr(module, name) for name in module._flat_weights_names]


def _restore_recurrent(module: nn.Module) -> None:
    assert isinstance(module, nn.RNNBase)
    # The list that the class computed is stored again, for kernels that want it in one piece.
    module._init_flat_weights()


# A recurrent layer hands its kernels a list of all weights that it keeps; the list must be computed anew, and cannot be
# laid out in one piece of memory, as cuDNN would have it.
_RECURRENT: dict[str, Any] = {
    "_flat_weights": property(_flat_weights, lambda module, value: None),
    "_weights_have_changed": lambda module: False,
    "flatten_parameters": lambda module: None,
}


def _convolution_layout(module: nn.Module) -> dict[str, Any]:
    assert isinstance(module, nn.modules.conv._ConvNd)
    return {"transposed": True, "groups": module.groups} if module.transposed else {}


def _mixture_layout(module: nn.Module) -> dict[str, Any]:
    """Each row of the weight is a whole kernel, flat."""
    shape: Any = module.weight_shape
    return {"unflattened": tuple(shape)}


KINDS: list[OwnerKind] = [
    OwnerKind(
        lambda module: isinstance(module, nn.modules.conv._ConvNd),
        lambda module: ("weight",),
        layout=_convolution_layout,
    ),
    _typed(nn.Linear, "weight"),
    _typed(nn.Bilinear, "weight"),
    OwnerKind(
        lambda module: isinstance(module, nn.MultiheadAttention),
        # With keys and values of other sizes there are three matrices in place of the one.
        _present("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"),
    ),
    OwnerKind(
        lambda module: isinstance(module, nn.RNNBase),
        _recurrent_tensors,
        members=_RECURRENT,
        restored=_restore_recurrent,
    ),
    _typed(nn.RNNCellBase, "weight_ih", "weight_hh"),
    OwnerKind(
        class_of("transformers.pytorch_utils", "Conv1D"),
        _present("weight"),
        layout=lambda module: {"transposed": True},
    ),
    OwnerKind(
        class_of("timm.layers.cond_conv2d", "CondConv2d"),
        _present("weight"),
        layout=_mixture_layout,
    ),
    _typed(nn.Embedding, "weight", default=False),
    _typed(nn.EmbeddingBag, "weight", default=False),
]


_PACKED = "is quantized, its weight is packed and cannot be trained; sparsify the float model, then quantize"
_QUANTIZED = (
    ("modules.utils", "WeightedQuantizedModule"),  # linear layers and convolutions
    ("modules.embedding_ops", "Embedding"),
    ("dynamic.modules.rnn", "RNNBase"),
    ("dynamic.modules.rnn", "RNNCellBase"),
)

# Modules whose weights cannot be computed anew, and why.
REFUSED: list[tuple[Callable[[nn.Module], bool], str]] = [
    (
        lambda module: isinstance(module, torch.jit.ScriptModule),
        "is scripted, its code is fixed; rewrite the model before scripting",
    ),
    *(
        (class_of(f"torch.ao.nn.quantized.{module}", kind), _PACKED)
        for module, kind in _QUANTIZED
    ),
]


def refusal(module: nn.Module) -> str | None:
    """Why a module of this type can never be rewritten; None when it is no such module."""
    return next((reason for matches, reason in REFUSED if matches(module)), None)


def kind_of(module: nn.Module) -> OwnerKind | None:
    """The kind of a module; None when it owns no prunable weight."""
    return next((kind for kind in KINDS if kind.matches(module)), None)


def prunable_tensors(module: nn.Module) -> tuple[str, ...]:
    """Names of the tensors of `module` itself (not of its children) that can be pruned.

    >>> prunable_tensors(nn.GRU(2, 3, bidirectional=True))
    ('weight_ih_l0', 'weight_hh_l0', 'weight_ih_l0_reverse', 'weight_hh_l0_reverse')
    """
    kind = kind_of(module)
    return () if kind is None else kind.tensors(module)
