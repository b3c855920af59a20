"""The tensors of a checkpoint: safetensors, or a torch file with state dicts."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sparsify_fx.checkpoints.checksums import damage, is_sealed
from sparsify_fx.errors import CheckpointError
from sparsify_fx.onnx_export.inspection.counting import check_size
from sparsify_fx.onnx_export.inspection.joined import Joined, State, joined_weights
from sparsify_fx.onnx_export.inspection.parts import OBJECTS, Parts, find_parts
from sparsify_fx.onnx_export.inspection.program_weights import (
    plain_names,
    program_weights,
)
from sparsify_fx.onnx_export.inspection.subclasses import count_any, stand_ins
from sparsify_fx.onnx_export.report.rows import LayerRow, count_weights

_SHOWN = 6  # parts that are named


@dataclass(frozen=True)
class Contents:
    """The rows of a file, and what the user should know about them."""

    rows: tuple[LayerRow, ...]
    notes: tuple[str, ...] = ()


class OneByOne(Mapping[str, Tensor]):
    """Tensors by name, each read when it is asked for."""

    def __init__(self, names: Iterable[str], read: Callable[[str], Tensor]) -> None:
        self._names, self._read = dict.fromkeys(names), read

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def safetensors_contents(file: Path) -> Contents:
    """One row per weight of a safetensors file; CheckpointError when it is damaged."""
    try:
        with safe_open(str(file), framework="pt") as handle:
            return Contents(
                state_rows(OneByOne(handle.keys(), handle.get_tensor), file)
            )
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{file} is not a whole safetensors file ({error}); write or download it again"
        ) from error


def torch_contents(file: Path) -> Contents:
    """One row per weight of a torch file, which is read without running what is pickled in it.

    Raises CheckpointError when it is damaged, holds other objects than tensors and plain data, or no state dict.
    """
    content = _load(file)
    try:
        parts = find_parts(content)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error
    if not parts.found:
        raise CheckpointError(f"{file} {_why_empty(parts)}")
    rows = [
        (".".join(part.path), state_rows(part.tensors, file)) for part in parts.found
    ]
    # Names as in the whole file, by which users find them again.
    named: list[LayerRow] = []
    for prefix, found in rows:
        named += [_renamed(row, prefix) for row in found]
    notes = [_of_parts(rows)] if len(rows) > 1 else []
    return Contents(
        tuple(named), (*notes, *([_left_out(parts)] if parts.left_out else []))
    )


def _renamed(row: LayerRow, prefix: str) -> LayerRow:
    """The row under its name in the whole checkpoint; a single part has no prefix."""
    return replace(row, name=f"{prefix}.{row.name}") if prefix else row


def _why_empty(parts: Parts) -> str:
    """Why there is nothing to show."""
    # Nothing but objects: a whole pickled module, as torch.save(model) writes it.
    objects = parts.left_out.get(OBJECTS)
    if objects:
        return (
            f"holds Python objects ({', '.join(objects[:_SHOWN])}), which are not loaded because that could run code, "
            "and no state dict; save model.state_dict() instead"
        )
    told = f" ({_left_out(parts)})" if parts.left_out else ""
    return f"holds no state dict{told}: expected tensors by name, at the top or under 'model'"


def _load(file: Path) -> Any:
    """The plain content of a torch file."""
    try:
        # 1. Our own files carry checksums, so a flipped bit is told before anything is read.
        if is_sealed(file) and (found := damage(file)) is not None:
            raise CheckpointError(
                f"{file} is damaged: {found}; write or download it again"
            )
        # 2. weights_only: nothing that is pickled runs. Classes that it refuses are replaced by inert ones.
        with warnings.catch_warnings(), stand_ins(file):
            # A foreign pickle is refused below in our own words; what else torch warns
            # of is not the user's doing.
            warnings.simplefilter("ignore")
            # Only the zip format can be mapped, which leaves an optimizer's state on the disk.
            if (
                file.suffix == ".safetensors"
            ):  # by which name alone torch would read another format
                with file.open("rb") as stream:
                    return torch.load(stream, map_location="cpu", weights_only=True)
            return torch.load(
                file,
                map_location="cpu",
                weights_only=True,
                mmap=zipfile.is_zipfile(file),
            )
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} is damaged or holds Python objects, which are not loaded because that could run code"
            f"{_reason(str(error))}; save model.state_dict() instead"
        ) from error
    except Exception as error:  # a damaged file fails anywhere in torch's reader
        raise CheckpointError(
            f"{file} is not a whole torch file ({error}); write or download it again"
        ) from error


_SIGN = "WeightsUnpickler error: "  # before the reason, in the middle of torch's advice to load the file all the same


def _reason(told: str) -> str:
    """What torch's reader stopped at."""
    if "must be imported" in told:
        return " (nested or distributed tensors, of which plain ones can be made: values(), full_tensor())"
    reasons = [
        line.partition(_SIGN)[2].partition(". ")[0].strip(" .")
        for line in told.splitlines()
        if _SIGN in line
    ]
    return f" ({reasons[0][:200]})" if any(reasons) else ""


@torch.no_grad()
def state_rows(state: State, file: Path) -> tuple[LayerRow, ...]:
    """Rows of a state dict; what several tensors make up is one row: programs, masked, packed and quantized weights.

    Raises CheckpointError, which names the tensor, for one without data or in a packing that is not known.
    """
    # 1. What programs compute; their tensors are taken out of what is left.
    programs, names = program_weights(state), plain_names(state)
    rest = OneByOne((name for name in names if name not in programs), state.__getitem__)
    # 2. What else several tensors make up.
    joined = programs | joined_weights(rest)
    # 3. One row each, where its first tensor stands in the file.
    shown = dict.fromkeys(
        joined[name].name if name in joined else name for name in names
    )
    by_name = {weight.name: weight for weight in joined.values()}
    # With programs among them, only their weights were up for pruning.
    return tuple(
        _row(name, by_name.get(name), state, file, bool(programs)) for name in shown
    )


def _row(
    name: str, joined: Joined | None, state: State, file: Path, programs: bool
) -> LayerRow:
    try:
        # Before anything is computed of them: entries that share places may claim any size.
        for member in joined.members if joined is not None else ():
            check_size(state[member])
        found = count_any(state[name]) if joined is None else joined.count(state)
    except (
        CheckpointError,
        RuntimeError,
        ValueError,
        TypeError,
        MemoryError,
    ) as error:  # torch's, of any kind
        raise CheckpointError(f"{file}: {name}: {error}") from error
    prunable = found.is_weight and (not programs or found.encoding == "program")
    return LayerRow(
        name, found.shape, found.dtype, found.size, found.nonzeros, found.bytes_dense, found.bytes_stored,
        found.encoding, prunable,
    )  # fmt: skip


Rows = Sequence[tuple[str, Sequence[LayerRow]]]


def _of_parts(parts: Rows) -> str:
    """Of which parts the totals are the sum."""
    told = [
        f"{name or 'the top'} {count_weights(rows)[0]:,}"
        for name, rows in parts[:_SHOWN]
    ]
    more = f" and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""
    shapes = [
        (name, {(row.name, row.shape) for row in rows})
        for name, rows in parts[:_SHOWN]
        if count_weights(rows)[0]
    ]
    twins = [
        name or "the top"
        for name, own in shapes
        if sum(own == other for _, other in shapes) > 1
    ]
    copies = (
        f"; {', '.join(twins)} have equal names and shapes, as copies of one model do"
        if twins
        else ""
    )
    return f"the totals are of all {len(parts)} parts, in weights: {', '.join(told)}{more}{copies}"


def _left_out(parts: Parts) -> str:
    """What is not shown, by kind, for the notes: `not shown: optimizer state (optim.0)`."""
    told = []
    for kind, names in parts.left_out.items():
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        told.append(f"{kind} ({', '.join(names[:_SHOWN])}{more})")
    return f"not shown: {', '.join(told)}"
