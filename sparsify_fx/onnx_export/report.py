"""What export and inspection found, as data and as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table


@dataclass(frozen=True)
class LayerRow:
    """One tensor of a file: `size` and `nonzeros` count entries, the rest of the sizes are bytes.

    `bytes_dense`: stored as a plain tensor; `bytes_stored`: as it is in the file. `prunable`: counts in the totals.

    >>> LayerRow("fc.weight", (2, 2), "float32", 4, 1, 16, 16, "dense", True).sparsity
    0.75
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    size: int
    nonzeros: int
    bytes_dense: int
    bytes_stored: int
    encoding: str
    prunable: bool
    values: str = "fp32"

    @property
    def zeros(self) -> int:
        """size - nonzeros."""
        return self.size - self.nonzeros

    @property
    def density(self) -> float:
        """nonzeros / size; 1.0 for an empty tensor."""
        return self.nonzeros / self.size if self.size else 1.0

    @property
    def sparsity(self) -> float:
        """1 - density, in [0, 1]."""
        return 1.0 - self.density

    def to_dict(self) -> dict[str, Any]:
        """All fields with zeros and density, ready for JSON."""
        return {**asdict(self), "shape": list(self.shape), "zeros": self.zeros, "density": self.density}


def count_weights(layers: Sequence[LayerRow]) -> tuple[int, int, float]:
    """(weights, nonzeros, sparsity) over the prunable tensors; sparsity is 0.0 when there are none."""
    weights = sum(row.size for row in layers if row.prunable)
    nonzeros = sum(row.nonzeros for row in layers if row.prunable)
    return weights, nonzeros, (weights - nonzeros) / weights if weights else 0.0


@dataclass(frozen=True)
class ExportReport:
    """The result of `export`: sizes in bytes, sparsity as a fraction of the prunable weights.

    `bytes_dense`: the same ONNX model with dense initializers; `ratio` = bytes_dense / bytes_file. The differences are
    between PyTorch and onnxruntime: absolute, and relative to the largest entry of the output; None without `verify`.
    """

    path: str
    opset: int
    sparsity: float
    nonzeros: int
    weights: int
    bytes_dense: int
    bytes_file: int
    ratio: float
    max_abs_difference: float | None
    max_rel_difference: float | None
    layers: tuple[LayerRow, ...]

    @property
    def verdict(self) -> str:
        """One honest sentence on size and speed."""
        if self.bytes_file < 0.995 * self.bytes_dense:
            size = f"the file is {self.ratio:.1f}x smaller" if self.ratio >= 1.05 else "the file is hardly smaller"
        else:
            size = f"the file is not smaller at sparsity {self.sparsity:.3f} (that takes about 0.5)"
        return f"stock onnxruntime gains no speed from zeros; {size}"

    def to_dict(self) -> dict[str, Any]:
        """All fields, layers and verdict, ready for JSON."""
        return {**asdict(self), "layers": [row.to_dict() for row in self.layers], "verdict": self.verdict}

    def table(self) -> Table:
        """The layers and their total as a table for rich."""
        table = _layers_table(self.path, self.layers, self.bytes_file)
        if self.max_abs_difference is None:
            checked = "not compared with PyTorch"
        else:
            checked = f"largest difference to PyTorch {self.max_abs_difference:.1e}"
        table.caption = f"{self.bytes_dense:,} bytes dense, {self.bytes_file:,} here; {checked}; {self.verdict}"
        return table


@dataclass(frozen=True)
class FileReport:
    """The result of `inspect_file`; `kind` is `onnx`, `safetensors` or `torch`, sizes are bytes."""

    path: str
    kind: str
    bytes_file: int
    sparsity: float
    nonzeros: int
    weights: int
    layers: tuple[LayerRow, ...]

    @property
    def zeros(self) -> int:
        """weights - nonzeros."""
        return self.weights - self.nonzeros

    def to_dict(self) -> dict[str, Any]:
        """All fields and layers, ready for JSON."""
        return {**asdict(self), "zeros": self.zeros, "layers": [row.to_dict() for row in self.layers]}

    def table(self) -> Table:
        """The layers and their total as a table for rich."""
        return _layers_table(f"{self.path} ({self.kind})", self.layers, self.bytes_file)


def _layers_table(title: str, layers: Sequence[LayerRow], bytes_file: int) -> Table:
    """One line per prunable or encoded tensor, one for all others, and the total of the prunable ones."""
    table = Table(title=title)
    table.add_column("layer", overflow="fold")
    for heading in ("shape", "zeros", "density", "bytes", "stored as"):
        table.add_column(heading, justify="left" if heading == "shape" else "right", no_wrap=True)
    shown = [row for row in layers if row.prunable or row.encoding != "dense"]
    for row in shown:
        kind = "" if row.dtype == "float32" else f" {row.dtype}"
        shape = "x".join(map(str, row.shape)) + kind
        _add(table, row.name, shape, row.size, row.zeros, row.bytes_stored, row.encoding)
    rest = [row for row in layers if not (row.prunable or row.encoding != "dense")]
    if rest:
        size, zeros, stored = (
            sum(part) for part in zip(*((r.size, r.zeros, r.bytes_stored) for r in rest), strict=True)
        )
        _add(table, f"{len(rest)} other tensors", f"{size:,} in all", size, zeros, stored)
    weights, nonzeros, _ = count_weights(layers)
    table.add_section()
    _add(table, "prunable; file", f"{weights:,} in all", weights, weights - nonzeros, bytes_file)
    return table


def _add(table: Table, name: str, shape: str, size: int, zeros: int, stored: int, how: str = "") -> None:
    """One line of numbers."""
    density = f"{1 - zeros / size:.4f}" if size else "-"
    table.add_row(name, shape, f"{zeros:,}", density, f"{stored:,}", how)
