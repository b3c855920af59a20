"""The tensors of a checkpoint: safetensors, or a torch file with a state dict."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sparsify_fx.errors import CheckpointError
from sparsify_fx.onnx_export.rows import LayerRow
from sparsify_fx.program import unmarked

_USUAL_KEYS = ("model", "state_dict", "model_state_dict", "model_state", "net", "module", "weights", "params")
_PROGRAM = re.compile(r"(?P<weight>.+)_program\.(?P<part>[^.]+)")


def safetensors_rows(file: Path) -> tuple[LayerRow, ...]:
    """One row per weight of a safetensors file; CheckpointError when it is damaged."""
    try:
        with safe_open(str(file), framework="pt") as handle:
            return state_rows({name: handle.get_tensor(name) for name in handle.keys()})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{file} is not a whole safetensors file ({error}); write or download it again"
        ) from error


def torch_rows(file: Path) -> tuple[LayerRow, ...]:
    """One row per weight of a torch file, which is read without running what is pickled in it.

    Raises CheckpointError when it is damaged, holds other objects than tensors and plain data, or no state dict.
    """
    try:
        with warnings.catch_warnings():
            # A foreign pickle is refused below in our own words.
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            # Only the zip format can be mapped, which leaves an optimizer's state on the disk.
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} is damaged or holds Python objects, which are not loaded because that could run code "
            f"({str(error).splitlines()[0]}); save model.state_dict() instead"
        ) from error
    except Exception as error:  # a damaged file fails anywhere in torch's reader
        raise CheckpointError(f"{file} is not a whole torch file ({error}); write or download it again") from error
    state = find_state_dict(content)
    if state is None:
        raise CheckpointError(f"{file} holds no state dict: expected tensors by name, at the top or under 'model'")
    return state_rows(state)


def find_state_dict(content: Any) -> dict[str, Tensor] | None:
    """The tensors by name, at the top, under a usual key (`model`, `state_dict`, ...) or in the largest part.

    >>> find_state_dict({"epoch": 3, "model": {"fc.weight": torch.ones(1)}})
    {'fc.weight': tensor([1.])}
    """
    if not isinstance(content, Mapping):
        return None
    for key in _USUAL_KEYS:
        found = find_state_dict(content.get(key))
        if found:
            return found
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        return tensors
    parts = [found for value in content.values() if (found := find_state_dict(value))]
    return max(parts, key=lambda part: sum(t.numel() for t in part.values()), default=None)


def state_rows(state: Mapping[str, Tensor]) -> tuple[LayerRow, ...]:
    """Rows of a state dict; the factors and the mask of a weight program become one row of the weight they give."""
    programs: dict[str, dict[str, Tensor]] = {}
    state = unmarked(state)
    for key, tensor in state.items():
        if match := _PROGRAM.fullmatch(key):
            programs.setdefault(match["weight"], {})[match["part"]] = tensor
    return tuple(_rows(state, programs))


def _rows(state: Mapping[str, Tensor], programs: dict[str, dict[str, Tensor]]) -> Iterator[LayerRow]:
    done: set[str] = set()
    for key, tensor in state.items():
        match = _PROGRAM.fullmatch(key)
        if match is None:
            matrix = tensor.dim() >= 2 and tensor.is_floating_point()
            # With programs in the file, only their weights were up for pruning.
            yield _row(key, tensor, tensor.nbytes, "dense", matrix and not programs)
        elif (name := match["weight"]) not in done:
            done.add(name)
            parts = programs[name]
            stored = sum(part.nbytes for part in parts.values())
            yield _row(name, _effective(name, parts), stored, "program", True)


def _effective(name: str, parts: Mapping[str, Tensor]) -> Tensor:
    """The weight of a program: dense * mask or m * w * mask; without a mask all ones."""
    factors = {part: value for part, value in parts.items() if part != "mask"}
    if factors.keys() == {"dense"}:
        theta = factors["dense"]
    elif factors.keys() == {"m", "w"}:
        theta = factors["m"] * factors["w"]
    else:
        raise CheckpointError(f"{name}: a weight program of {sorted(parts)} is unknown; expected dense or m and w")
    return theta if "mask" not in parts else torch.where(parts["mask"].bool(), theta, torch.zeros_like(theta))


def _row(name: str, tensor: Tensor, stored: int, encoding: str, prunable: bool) -> LayerRow:
    dtype = str(tensor.dtype).removeprefix("torch.")
    nonzeros = int(torch.count_nonzero(tensor))
    return LayerRow(
        name, tuple(tensor.shape), dtype, tensor.numel(), nonzeros, tensor.nbytes, stored, encoding, prunable
    )
