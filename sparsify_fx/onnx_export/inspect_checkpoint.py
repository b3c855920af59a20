"""The tensors of a checkpoint: safetensors, or a torch file with a state dict."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sparsify_fx.errors import CheckpointError, SparsifyError
from sparsify_fx.onnx_export.rows import LayerRow
from sparsify_fx.parameterizations import Parameterization
from sparsify_fx.program import unmarked
from sparsify_fx.program_state import EXTRA, decode
from sparsify_fx.recipe import axis_value

_USUAL_KEYS = ("model", "state_dict", "model_state_dict", "model_state", "net", "module", "weights", "params")
_OF_VERSION_0_1 = {
    ("dense",): "dense",
    ("m", "w"): "product",
    ("dense", "s"): "soft-threshold",
    ("dense", "logit", "temperature"): "sigmoid-gate",
    ("dense", "logit"): "l0",
}
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
    plain = unmarked(state)
    for key, tensor in state.items():
        match = _PROGRAM.fullmatch(key)
        if match and (key in plain or match["part"] == EXTRA):
            programs.setdefault(match["weight"], {})[match["part"]] = tensor
    return tuple(_rows(plain, programs))


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
            stored = sum(tensor.nbytes for part, tensor in parts.items() if part != EXTRA)
            yield _row(name, _effective(name, parts), stored, "program", True)


def _effective(name: str, parts: Mapping[str, Tensor]) -> Tensor:
    """The weight that the program's layer sees in evaluation; CheckpointError for tensors that make none."""
    tensors = {part: value for part, value in parts.items() if part not in ("mask", EXTRA)}
    try:
        how = _parameterization(parts)
        like = tensors[how.factors[0]]
        state = {key: torch.zeros_like(value) for key, value in how.state(like).items() if key in how.transient}
        theta = torch.as_tensor(how.value({**state, **tensors}))
    except (SparsifyError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{name}: no weight can be made of its program of {sorted(tensors)}: {error}") from error
    return theta if "mask" not in parts else torch.where(parts["mask"].bool(), theta, torch.zeros_like(theta))


def _parameterization(parts: Mapping[str, Tensor]) -> Parameterization:
    """The one that the file tells of; without that (version 0.1) the one that has these tensors, with its defaults."""
    if EXTRA in parts:
        return cast(Parameterization, axis_value("parameterization", decode(parts[EXTRA])["parameterization"]))
    names = tuple(sorted(set(parts) - {"mask"}))
    if names not in _OF_VERSION_0_1:
        known = "; ".join(", ".join(each) for each in _OF_VERSION_0_1)
        raise ValueError(f"no parameterization has these; known are {known}")
    return cast(Parameterization, axis_value("parameterization", _OF_VERSION_0_1[names]))


def _row(name: str, tensor: Tensor, stored: int, encoding: str, prunable: bool) -> LayerRow:
    dtype = str(tensor.dtype).removeprefix("torch.")
    nonzeros = int(torch.count_nonzero(tensor))
    return LayerRow(
        name, tuple(tensor.shape), dtype, tensor.numel(), nonzeros, tensor.nbytes, stored, encoding, prunable
    )
