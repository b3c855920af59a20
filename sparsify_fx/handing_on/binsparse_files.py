"""Binsparse: a whole model as one HDF5 file, a group for each tensor, without its zeros."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsify_fx.errors import ExportError
from sparsify_fx.handing_on.plain import (
    HandedOn,
    bytes_of,
    dense_bytes,
    missing,
    prunable,
    zeros_of,
)

# A custom level keeps an index for each axis after the first, in 1 or 2 bytes: below this share it costs more.
_WORTH = 0.5


def save_binsparse(model: nn.Module, path: str | os.PathLike[str]) -> HandedOn:
    """Write every tensor of a merged model to a Binsparse file (HDF5), and read it back bit by bit.

    A tensor of two axes or more that is mostly zeros is stored as a custom level: pointers for each row of the first
    axis, then an index for each further axis and the value of every non-zero. So a 4-D convolution keeps its shape,
    which the named formats (CSR, COO) have no place for. Everything else is stored dense.

    Raises ExportError, with no file written, for a rewritten model, one without zeros, or values in bfloat16, which
    Binsparse has no type for.

    Source: Binsparse specification 0.1, custom formats.
    """
    path = Path(path)
    weights = prunable(model)
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    odd = [name for name, value in state.items() if value.dtype == torch.bfloat16]
    if odd:
        raise ExportError(
            f"{odd[0]} is bfloat16, which Binsparse has no type for; call model.float() or model.half() first"
        )
    # Whole or not at all: what a killed process leaves is not taken for the file.
    part = path.with_name(path.name + ".part")
    try:
        sparse = _write(state, part)
        if (wrong := _differing(state, load_binsparse(part))) is not None:
            raise ExportError(f"{wrong} was read back with other bits; nothing is kept")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    total = sum(weight.numel() for weight in weights.values())
    return HandedOn(
        path, bytes_of(path), dense_bytes(state), zeros_of(weights), total, sparse
    )


def load_binsparse(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The dense state dict of a file that `save_binsparse` wrote; ExportError for another one."""
    _, h5py = _libraries()
    found = {}
    with h5py.File(path, "r") as file:
        for name in file.attrs.get("tensors", ()):
            found[name] = _read(file[name])
    if not found:
        raise ExportError(f"{path} holds no tensors that save_binsparse wrote")
    return found


def _libraries() -> tuple[Any, Any]:
    try:
        import binsparse
        import h5py
    except ImportError as error:
        raise missing("binsparse", "binsparse") from error
    return binsparse, h5py


def _write(state: Mapping[str, Tensor], path: Path) -> int:
    """How many tensors were written sparse."""
    binsparse, h5py = _libraries()
    sparse = 0
    with h5py.File(path, "w") as file:
        # Groups are listed by name, a state dict has an order of its own.
        file.attrs["tensors"] = list(state)
        for name, value in state.items():
            mostly_zero = (
                value.dim() >= 2 and float((value == 0).float().mean()) > _WORTH
            )
            sparse += mostly_zero
            made = _sparse(value) if mostly_zero else _dense(value)
            made.serialize(binsparse.HDF5BinsparseContainer(file.create_group(name)))
    return sparse


def _dense(value: Tensor) -> Any:
    binsparse, _ = _libraries()
    level = binsparse.ElementLevel(value.numpy().reshape(-1))
    if value.dim():
        level = binsparse.DenseLevel(value.dim(), level)
    return binsparse.CustomTensor(tuple(value.shape), value.numel(), level=level)


def _sparse(value: Tensor) -> Any:
    """Rows of the first axis, each a list of non-zeros with an index for every further axis."""
    binsparse, _ = _libraries()
    array = value.numpy()
    rows, *others = array.nonzero()
    counts = np.bincount(rows, minlength=array.shape[0])
    pointers = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)
    indices = tuple(
        index.astype(np.min_scalar_type(size - 1))
        for index, size in zip(others, array.shape[1:], strict=True)
    )
    level = binsparse.ElementLevel(array[array != 0])
    level = binsparse.SparseLevel(len(indices), level, indices, pointers)
    return binsparse.CustomTensor(
        array.shape, len(rows), level=binsparse.DenseLevel(1, level)
    )


def _read(group: Any) -> Tensor:
    """One tensor, dense."""
    binsparse, _ = _libraries()
    made = binsparse.BinsparseTensor.parse(
        binsparse.HDF5BinsparseContainer(group), alias=False
    )
    # Down to the level that says where the values are.
    level = made.level
    if isinstance(level, binsparse.DenseLevel):
        level = level.level
    if isinstance(level, binsparse.ElementLevel):
        return torch.from_numpy(np.asarray(level.values).reshape(made.shape))
    counts = np.diff(level.pointers_to_next.astype(np.int64))
    rows = np.repeat(np.arange(made.shape[0]), counts)
    array = np.zeros(made.shape, level.level.values.dtype)
    array[(rows, *(index.astype(np.int64) for index in level.indices))] = (
        level.level.values
    )
    return torch.from_numpy(array)


def _differing(state: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """The first tensor that is not the same, -0.0 being a zero."""
    for name, value in state.items():
        if name not in found or not torch.equal(value, found[name]):
            return name
    return None
