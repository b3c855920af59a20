"""Weights that a checkpoint stores as several tensors: pruned, parametrized, packed and quantized ones.

Each rule of the table `RULES` looks at one name, the leader, and says which tensors beside it make up one weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparsify_fx.errors import CheckpointError
from sparsify_fx.onnx_export.inspection.counting import (
    Counted,
    count,
    dtype_text,
    entries,
    nonzeros,
)
from sparsify_fx.onnx_export.inspection.packed_weights import (
    packed_bits,
    quantized_count,
)

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Joined:
    """One weight: its name, the tensors that it is stored as, and how it is counted."""

    name: str
    members: tuple[str, ...]
    count: Callable[[State], Counted]


def joined_weights(state: State) -> dict[str, Joined]:
    """The weights of several tensors, under the name of each of these.

    >>> found = joined_weights({"fc.weight_orig": torch.ones(2, 2), "fc.weight_mask": torch.eye(2)})
    >>> {key: joined.name for key, joined in found.items()}
    {'fc.weight_orig': 'fc.weight', 'fc.weight_mask': 'fc.weight'}
    """
    found: dict[str, Joined] = {}
    # Rules in their order over all names: a tensor belongs to the first weight that claims
    # it. A weight may not take the name of a tensor that is there beside its members.
    for rule in RULES:
        for name in state:
            joined = rule(name, state)
            if joined is not None and (
                joined.name in joined.members or joined.name not in state
            ):
                found |= {
                    member: joined for member in joined.members if member not in found
                }
    return found


def _pruned(name: str, state: State) -> Joined | None:
    """`torch.nn.utils.prune`: weight = weight_orig * weight_mask."""
    stem = name.removesuffix("_orig")
    return None if stem == name else _masked(stem, name, f"{stem}_mask", state)


def _parametrized(name: str, state: State) -> Joined | None:
    """Parametrizations that are known: a mask (torch.ao.pruning), norms, spectral norms; others stay as they are."""
    # `fc.parametrizations.weight.original0`: the module, the parameter, and which original.
    module, found, key = name.rpartition("parametrizations.")
    weight, _, last = key.rpartition(".")
    if not found or "." in weight:
        return None
    # 1. Weight norm has two originals: the norm and the direction.
    if last == "original0":
        return _weight_norm(f"{module}{weight}", name, name[:-1] + "1", state)
    stem = name.removesuffix(".original")
    if stem == name:
        return None
    # 2. Spectral norm has one original, and the vectors of its power iteration.
    power = (f"{stem}.0._u", f"{stem}.0._v")
    if all(
        each in state for each in power
    ):  # the weight divided by its largest singular value
        return Joined(
            f"{module}{weight}",
            (name, *power),
            lambda state: _times(state, name, None, power),
        )
    # 3. A mask, or something unknown: then the original stays a tensor of its own.
    return _masked(f"{module}{weight}", name, f"{stem}.0.mask", state)


def _old_weight_norm(name: str, state: State) -> Joined | None:
    """`torch.nn.utils.weight_norm`: weight = weight_g * weight_v / |weight_v|."""
    stem = name.removesuffix("_g")
    return None if stem == name else _weight_norm(stem, name, f"{stem}_v", state)


def _masked(weight: str, original: str, mask: str, state: State) -> Joined | None:
    if mask not in state or state[mask].shape != state[original].shape:
        return None
    return Joined(
        weight, (original, mask), lambda state: _times(state, original, mask, (mask,))
    )


def _weight_norm(weight: str, norm: str, direction: str, state: State) -> Joined | None:
    if direction not in state:
        return None
    # Broadcast from the last axis: each axis of the norm is 1 or the direction's.
    g, v = state[norm].shape, state[direction].shape
    if (
        len(g) > len(v)
        or len(v) < 2
        or any(a not in (1, b) for a, b in zip(g[::-1], v[::-1], strict=False))
    ):
        return None
    # A norm has one entry a unit, or one in all: one of more axes would be something else.
    if sum(length > 1 for length in g) > 1:
        return None
    return Joined(
        weight, (norm, direction), lambda state: _times(state, direction, norm, (norm,))
    )


def _times(
    state: State, original: str, factor: str | None, others: tuple[str, ...]
) -> Counted:
    """The original where the factor, if there is one, is not zero; `others` add to the stored bytes."""
    value = state[original]
    if factor is not None and not value.is_meta:
        # Only whether it is zero counts, so the factor itself need not be multiplied: a
        # norm of zero makes its whole unit zero.
        value = torch.where(
            state[factor] != 0, value, torch.zeros((), dtype=value.dtype, device="cpu")
        )
    how = "masked" if factor is not None and factor.endswith("mask") else "parametrized"
    counted = count(value)
    stored = state[original].nbytes + sum(state[other].nbytes for other in others)
    return replace(counted, bytes_stored=stored, encoding=how)


_BESIDE = ("scale", "zero_point", "shape", "g_idx", "global_scale", "scale_inv")
"""What compressed-tensors, and DeepSeek's `scale_inv`, store beside a quantized weight, after an underscore."""


def _packed(name: str, state: State) -> Joined | None:
    """compressed-tensors: `weight_packed`, integers of 1 to 8 bits in int32 or floats of 4 or 6 bits in bytes."""
    stem = name.removesuffix("_packed")
    beside = {part: f"{stem}_{part}" for part in _BESIDE if f"{stem}_{part}" in state}
    if (
        stem == name
        or packed_bits(state[name], {part: state[key] for part, key in beside.items()})
        is None
    ):
        return None
    return Joined(
        stem, (name, *beside.values()), lambda state: _quantized(state, name, beside)
    )


def _bitmask(name: str, state: State) -> Joined | None:
    """compressed-tensors before 0.13: the values other than zero, a bit for each entry, and the shape."""
    stem = name.removesuffix(".compressed")
    parts = [f"{stem}.{part}" for part in ("bitmask", "shape", "row_offsets")]
    if stem == name or any(part not in state for part in parts[:2]):
        return None
    beside = [
        key for key in (*parts, *(f"{stem}_{part}" for part in _BESIDE)) if key in state
    ]
    return Joined(stem, (name, *beside), lambda state: _of_bitmask(state, name, beside))


def _of_bitmask(state: State, name: str, beside: Sequence[str]) -> Counted:
    values = state[name]
    shape = tuple(int(length) for length in state[beside[1]].reshape(-1).tolist())
    dense = entries(shape) * values.element_size()
    stored = values.nbytes + sum(state[key].nbytes for key in beside)
    found = nonzeros(values)
    # A damaged file: more values than places would give a negative number of zeros.
    if found > entries(shape):
        raise CheckpointError(f"{found} values do not fit into the shape {list(shape)}")
    return Counted(
        shape,
        dtype_text(values.dtype),
        found,
        dense,
        stored,
        "bitmask",
        len(shape) >= 2,
    )


def _plain_quantized(name: str, state: State) -> Joined | None:
    """A weight of int8 or float8 with its scale beside it: compressed-tensors and others."""
    beside = {part: f"{name}_{part}" for part in _BESIDE if f"{name}_{part}" in state}
    if not {"scale", "scale_inv"} & beside.keys() or state[name].element_size() != 1:
        return None
    return Joined(
        name, (name, *beside.values()), lambda state: _quantized(state, name, beside)
    )


def _torchao(name: str, state: State) -> Joined | None:
    """torchao in safetensors: `fc._weight_qdata`, `fc._weight_scale` and perhaps `fc._weight_zero_point`."""
    stem = name.removesuffix("_qdata")
    module, _, weight = stem.rpartition(".")
    if stem == name or not weight.startswith("_"):
        return None
    beside = {
        part: f"{stem}_{part}"
        for part in ("scale", "zero_point")
        if f"{stem}_{part}" in state
    }
    shown = ".".join(filter(None, (module, weight[1:])))
    if "scale" not in beside or state[name].element_size() != 1:
        return None
    return Joined(
        shown, (name, *beside.values()), lambda state: _quantized(state, name, beside)
    )


def _quantized(state: State, name: str, beside: Mapping[str, str]) -> Counted:
    tensors = {part: state[key] for part, key in beside.items()}
    data = state[name]
    counted = quantized_count(data, tensors)
    return replace(
        counted,
        bytes_stored=data.nbytes + sum(tensor.nbytes for tensor in tensors.values()),
    )


RULES: tuple[Callable[[str, State], Joined | None], ...] = (
    _pruned,
    _parametrized,
    _old_weight_norm,
    _packed,
    _bitmask,
    _plain_quantized,
    _torchao,
)
