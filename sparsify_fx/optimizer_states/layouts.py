"""How the entries of a parameter lie in a tensor of its state: plainly, flattened, compressed, or as codes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.errors import OptimizerStateWarning, SchedulerError
from sparsify_fx.living.remembered import Remembered
from sparsify_fx.optimizer_states.blocks import has_zero, is_quantized, write_blocks
from sparsify_fx.optimizer_states.fresh import ask, is_by_entry
from sparsify_fx.optimizer_states.holders import Path, Place, walk
from sparsify_fx.sharding import part

# Integer codes in which code 0 (that of a new parameter) always means 0.
_CODES = ("::quantized", "error_bits")
# The tables of bitsandbytes, by the codes that they are for.
_TABLES = {"state1": "qmap1", "state2": "qmap2"}
# Selections and positions, which are no value of an entry.
_NO_VALUES = (torch.bool, torch.int32, torch.int64)
_named: Remembered[bool] = Remembered()


def entry_tensors(place: Place, parameter: nn.Parameter) -> dict[Path, list[Tensor]]:
    """The tensors with a value for each entry of the parameter, by path.

    Raises SchedulerError for codes of a layout that is not known; nothing has been changed then.
    """
    found: dict[Path, list[Tensor]] = {}
    for path, tensor in walk(place.state):
        if (
            _has_entries(place, parameter, path, tensor)
            and tensor.dtype not in _NO_VALUES
        ):
            _check_codes(place, path, tensor)
            found.setdefault(path, []).append(tensor)
    return found


def shared_tensors(place: Place, parameter: nn.Parameter) -> dict[Path, list[Tensor]]:
    """The tensors that several entries share: factored moments, preconditioners, projections."""
    found: dict[Path, list[Tensor]] = {}
    for path, tensor in walk(place.state):
        floating = tensor.is_floating_point() and tensor.numel() > 1
        if (
            floating
            and not _is_table(path)
            and not _has_entries(place, parameter, path, tensor)
        ):
            found.setdefault(path, []).append(tensor)
    return found


def write_entries(
    place: Place, tensor: Tensor, path: Path, entries: Tensor, value: Tensor | float
) -> None:
    """Put `value` (a number, or a tensor with the parameter's shape) at `entries` (bool, the parameter's shape)."""
    # A process writes what it holds of a sharded state.
    entries = part(entries, tensor)
    value = part(value, tensor) if isinstance(value, Tensor) else value
    tensor = part(tensor, tensor)
    if is_quantized(tensor):
        write_blocks(tensor, entries, value)
        return
    # bitsandbytes stores codes of a table: what means 0 is looked up, whatever value was asked for.
    if path[-1] in _TABLES and _TABLES[path[-1]] in place.state:
        value = float(_zero_code(place.state[_TABLES[path[-1]]], place))
    # An optimizer with a mask of its own keeps only the entries that it selects.
    compressed = _compressing(place.state, tensor, entries)
    if compressed is not None:
        value = value[compressed] if isinstance(value, Tensor) else value
        entries = entries[compressed]
    shaped = value.reshape(tensor.shape) if isinstance(value, Tensor) else value
    tensor.copy_(_filled(tensor, entries.reshape(tensor.shape), shaped))


def name_once(place: Place, parameter: nn.Parameter) -> None:
    """Warn, once for an optimizer, of state that is right for training but cannot be made fresh entry by entry."""
    # Factored moments and preconditioners belong to rows, columns or blocks of weights.
    # State that was loaded from the other storage has another shape and is none of these: it will be brought into this.
    shared = sorted(
        {
            str(path[0])
            for path in shared_tensors(place, parameter)
            if not is_by_entry(place, parameter, path)
        }
    )
    coarse = sorted(
        {
            str(path[0])
            for path, tensor in walk(place.state)
            if is_quantized(tensor) and not has_zero(tensor)
        }
    )
    # Once for an optimizer, not for each of its parameters.
    if not (shared or coarse) or _named.get(place.holder):
        return
    _named.put(place.holder, True)
    told = [f"{', '.join(shared)} belong to several weights at once"] if shared else []
    told += [f"{', '.join(coarse)} have no code for 0"] if coarse else []
    warnings.warn(
        f"the state of {type(place.holder).__name__}: {'; '.join(told)}. Pruned weights stay zero, but weights that "
        "come back share this state with their neighbors, where other optimizers start them afresh",
        OptimizerStateWarning,
        stacklevel=3,
    )


def _has_entries(
    place: Place, parameter: nn.Parameter, path: Path, tensor: Tensor
) -> bool:
    # The twin of a scalar has two entries, so that counters can be told from entries.
    if parameter.dim() == 0:
        return ask(place, parameter).shapes.get(path) == (2,)
    # Flattened state ([9, 64] for [9, 8, 8]) keeps the order of the entries; a transposed one does not.
    if same_order(tensor.shape, parameter.shape):
        return True
    mask = place.state.get("mask") if isinstance(place.state, Mapping) else None
    return (
        _compresses(mask, tensor) and mask is not None and mask.shape == parameter.shape
    )


def same_order(shape: torch.Size, of: torch.Size) -> bool:
    """Whether two shapes have the same entries in the same order: alike but for merged axes and axes of one entry."""
    if shape == of:
        return True
    if shape.numel() != of.numel() or shape.numel() < 2:
        return False
    rest = [size for size in of if size != 1]
    for size in (size for size in shape if size != 1):
        merged = 1
        # Consecutive axes are merged until they make this one.
        while rest and merged < size:
            merged *= rest.pop(0)
        if merged != size:
            return False
    return not rest


def _compresses(mask: Any, tensor: Tensor) -> bool:
    """Whether `tensor` holds only the entries that a mask of the optimizer's own selects, in order."""
    # `mask` is a common name: only a bool tensor that selects as many entries as there are counts.
    selects = (
        isinstance(mask, Tensor) and mask.dtype == torch.bool and mask is not tensor
    )
    return bool(
        selects
        and tensor.dim() == 1
        and int(mask.count_nonzero()) == tensor.numel() > 0
    )


def _compressing(state: Any, tensor: Tensor, entries: Tensor) -> Tensor | None:
    mask = state.get("mask") if isinstance(state, Mapping) else None
    if (
        tensor.numel() != entries.numel()
        and isinstance(mask, Tensor)
        and _compresses(mask, tensor)
    ):
        return mask
    return None


def _filled(tensor: Tensor, entries: Tensor, value: Tensor | float) -> Tensor:
    if isinstance(value, Tensor):
        return torch.where(entries, value.to(tensor.device, tensor.dtype), tensor)
    return tensor.masked_fill(entries, value)


def _check_codes(place: Place, path: Path, tensor: Tensor) -> None:
    """SchedulerError for integers of which nobody knows what they mean."""
    plain = tensor.is_floating_point() or tensor.is_complex() or is_quantized(tensor)
    known = any(code in str(path[-1]) for code in _CODES)
    table = path[-1] in _TABLES and _TABLES[path[-1]] in place.state
    if table:
        _zero_code(place.state[_TABLES[path[-1]]], place)
    # Eight-bit floats keep their scales in another tensor: zero is zero in all of them.
    if not (plain or known or table):
        raise unknown_layout(place.holder, path, tensor)


def unknown_layout(holder: Any, path: Path, tensor: Tensor) -> SchedulerError:
    """The error for codes without a known meaning."""
    return SchedulerError(
        f"{type(holder).__name__} keeps its state {path[-1]!r} as {tensor.dtype} codes of a layout that sparsify_fx "
        "does not know, so it cannot clear it for pruned weights; use the same optimizer without quantized state "
        "(torchao.optim's 8-bit and fp8 ones are supported)"
    )


def _zero_code(table: Tensor, place: Place) -> int:
    # The nearest to zero: only an exact zero keeps a pruned weight at rest.
    code = int(table.abs().argmin())
    if float(table[code]) != 0.0:
        raise SchedulerError(
            f"the state of {type(place.holder).__name__} is quantized without a code for 0, so pruned weights could "
            "not rest; use the same optimizer without quantized state"
        )
    return code


def _is_table(path: Path) -> bool:
    return any(
        str(key) in ("qmap1", "qmap2", "absmax1", "absmax2") or "::scales" in str(key)
        for key in path
    )
