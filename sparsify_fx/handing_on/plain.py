"""What every way out asks of a model, and how it says what it kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsify_fx.errors import ExportError
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.selection import select_layers


@dataclass(frozen=True)
class HandedOn:
    """A file for another tool, read back.

    Attributes:
        path: the file or folder.
        size: its bytes.
        dense_size: bytes of the weights' values if none were left out.
        zeros: weights that are zero in what was read back.
        total: weights of the layers that can be sparse.
        sparse: tensors that are stored without their zeros.
    """

    path: Path
    size: int
    dense_size: int
    zeros: int
    total: int
    sparse: int

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.size:,} bytes ({self.dense_size:,} of dense weights), {self.zeros:,} of "
            f"{self.total:,} weights are zero, {self.sparse} tensors are stored sparse"
        )


def prunable(model: nn.Module) -> dict[str, Tensor]:
    """The weights of layers that can be sparse, by name; ExportError for a rewritten model, or one without zeros."""
    if programs(model):
        raise ExportError(
            "the model is still rewritten; sparsify_fx.merge(model) it first, so that its zeros are plain weights"
        )
    weights = {
        name: layer.weight.detach() for name, layer in select_layers(model).items()
    }
    if all(bool((weight != 0).all()) for weight in weights.values()):
        raise ExportError(
            "none of the weights is zero, so nothing is gained; prune the model first, or use the other tool directly"
        )
    return weights


def zeros_of(weights: Mapping[str, Tensor]) -> int:
    """How many entries are zero."""
    return sum(int((weight == 0).sum()) for weight in weights.values())


def bytes_of(path: Path) -> int:
    """The size of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_size for file in files)


def missing(package: str, install: str) -> ExportError:
    """The error for a tool that is not installed."""
    return ExportError(f"{package} is not installed; pip install {install}")


def dense_bytes(weights: Mapping[str, Tensor]) -> int:
    """Bytes of all values, zeros among them."""
    return sum(w.numel() * w.element_size() for w in weights.values())


def close(found: Tensor, expected: Tensor) -> bool:
    """Whether outputs of another runtime are those of the model, up to the order of its sums."""
    scale = float(expected.abs().max())
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * max(scale, 1e-6))
