"""What export and inspection found, as data and as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from sparsify_fx.onnx_export.codecs.encoding import entropy_bytes
from sparsify_fx.onnx_export.measure import Speed
from sparsify_fx.onnx_export.verify import HOW_TO_OPEN
from sparsify_fx.passes.onnx_graph import PassRow, passes_table

SPARSE = "sparse-ort"
"""The target whose files hold sparse operators, and the encoding of the weights that these hold."""


@dataclass(frozen=True)
class LayerRow:
    """One tensor of a file: `size` and `nonzeros` count entries, the rest of the sizes are bytes.

    `bytes_dense`: stored as a plain tensor; `bytes_stored`: as it is in the file. `prunable`: counts in the totals.
    `encoding` and `values` are the names of `export`; of other floats than float32 `fp32` means their own bits. The
    encoding of a weight inside a sparse operator is `sparse-ort`.
    `macs`: multiply-adds of a dense layer for one sample, None if its shapes are not known.

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
    macs: int | None = None

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

    @property
    def macs_remaining(self) -> int | None:
        """Multiply-adds with weights other than zero: macs * density."""
        return None if self.macs is None else round(self.macs * self.density)

    @property
    def bytes_bound(self) -> float:
        """Entropy of the places of zeros, and the raw values: size * H(density) / 8 + nonzeros * bytes of a value.

        No code for zeros at independent places gives fewer bytes with raw values.
        """
        width = (self.bytes_dense / self.size) if self.size else 0.0
        return entropy_bytes(self.size, self.nonzeros, 8 * round(width))

    def to_dict(self) -> dict[str, Any]:
        """All fields with zeros, density, remaining MACs and the bound, ready for JSON."""
        more = {"zeros": self.zeros, "density": self.density, "macs_remaining": self.macs_remaining}
        return {**asdict(self), "shape": list(self.shape), **more, "bytes_bound": self.bytes_bound}


def count_weights(layers: Sequence[LayerRow]) -> tuple[int, int, float]:
    """(weights, nonzeros, sparsity) over the prunable tensors; sparsity is 0.0 when there are none."""
    weights = sum(row.size for row in layers if row.prunable)
    nonzeros = sum(row.nonzeros for row in layers if row.prunable)
    return weights, nonzeros, (weights - nonzeros) / weights if weights else 0.0


def count_macs(layers: Sequence[LayerRow]) -> tuple[int, int] | None:
    """(macs, remaining) over the prunable tensors; None when the shapes of none are known."""
    known = [row for row in layers if row.prunable and row.macs is not None]
    if not known:
        return None
    return sum(row.macs or 0 for row in known), sum(row.macs_remaining or 0 for row in known)


def sparse_layers(layers: Sequence[LayerRow]) -> tuple[str, ...]:
    """The names of the weights whose zeros sparse operators skip; dense ones that they hold as well do not count."""
    return tuple(row.name for row in layers if row.encoding == SPARSE and row.nonzeros < row.size)


@dataclass(frozen=True)
class ExportReport:
    """The result of `export`, `pack_onnx` and `unpack_onnx`: sizes in bytes, sparsity of the prunable weights.

    `bytes_dense`: the same ONNX model with dense initializers; `ratio` = bytes_dense / bytes_file; `bytes_bound`: the
    same with `LayerRow.bytes_bound` for every prunable weight. The differences are between onnxruntime and `reference`
    (PyTorch, or the file that was packed): absolute, and relative to the largest entry of the output; None if they were
    not compared. `speed`: what was measured with `measure`. `notes`: what else the user should know.
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
    passes: tuple[PassRow, ...] = ()
    encoding: str = "auto"
    values: str = "fp32"
    target: str = "onnx"
    reference: str = "PyTorch"
    speed: Speed | None = None
    notes: tuple[str, ...] = ()

    @property
    def bytes_bound(self) -> float:
        """The dense file with every prunable weight at its bound."""
        return self.bytes_dense + sum(row.bytes_bound - row.bytes_dense for row in self.layers if row.prunable)

    @property
    def macs(self) -> tuple[int, int] | None:
        """(multiply-adds of one sample, those with weights other than zero), or None."""
        return count_macs(self.layers)

    @property
    def sparse_layers(self) -> tuple[str, ...]:
        """The names of the weights that sparse operators hold."""
        return sparse_layers(self.layers)

    @property
    def verdict(self) -> str:
        """One honest sentence on size and speed."""
        if self.bytes_file < 0.995 * self.bytes_dense:
            size = f"the file is {self.ratio:.1f}x smaller" if self.ratio >= 1.05 else "the file is hardly smaller"
        else:
            size = f"the file is not smaller at sparsity {self.sparsity:.3f} (that takes about 0.5)"
        if self.target != SPARSE:
            return f"stock onnxruntime gains no speed from zeros; {size}"
        prunable = sum(row.prunable for row in self.layers)
        held = f"{len(self.sparse_layers)} of {prunable} layers skip their zeros"
        return f"{held}, {self._measured_speed()}; {size}"

    def _measured_speed(self) -> str:
        """What is known about the speed of a file with sparse operators."""
        if not self.sparse_layers:
            return "the others would not be faster: the file is as fast as a dense one"
        if self.speed is None:
            return "how much faster that is was not measured (measure=True, --measure)"
        faster = 1 / self.speed.latency_ratio
        if faster < 1.05:
            return f"which is not faster than dense here: {faster:.2f}x in the same run"
        return f"{faster:.1f}x as fast as dense in the same run, one thread"

    @property
    def advice(self) -> str:
        """Why the file is not faster, or how it is run, and what would help."""
        macs = self.macs
        share = "" if macs is None or not macs[0] else f"; {macs[1] / macs[0]:.0%} of the multiply-adds are needed"
        if self.target == SPARSE and self.sparse_layers:
            return f"{HOW_TO_OPEN}{share}"
        if self.target == SPARSE:
            return f"the file has no sparse operators: any onnxruntime runs it{share}"
        return (
            "stock onnxruntime multiplies by zeros as by any other number, so a packed file runs as fast as a dense "
            f'one{share}. Faster: target="{SPARSE}" (--target {SPARSE}), whose kernels skip zeros, or whole channels '
            "pruned, which can be removed"
        )

    def to_dict(self) -> dict[str, Any]:
        """All fields, layers, bound, verdict and advice, ready for JSON."""
        more = {"verdict": self.verdict, "advice": self.advice, "bytes_bound": self.bytes_bound, "macs": self.macs}
        more["sparse_layers"] = list(self.sparse_layers)
        speed = None if self.speed is None else self.speed.to_dict()
        return {**asdict(self), "layers": [row.to_dict() for row in self.layers], **more, "speed": speed}

    def table(self) -> Table:
        """The layers and their total as a table for rich."""
        table = _layers_table(self.path, self.layers, self.bytes_file)
        if self.max_abs_difference is None:
            checked = f"not compared with {self.reference}"
        else:
            checked = f"largest difference to {self.reference} {self.max_abs_difference:.1e}"
        sizes = (
            f"{self.bytes_dense:,} bytes dense, {self.bytes_file:,} here, {self.bytes_bound:,.0f} at the entropy bound"
        )
        speed = "" if self.speed is None else f"; {self.speed.sentence()}"
        lines = [f"{sizes}; {checked}{speed}; {self.verdict}", *self.notes, self.advice]
        table.caption = "\n".join(lines)
        return table

    def passes_table(self) -> Table | None:
        """What the passes over the graph removed, as a table for rich; None when nothing was to be removed."""
        return passes_table(self.passes)


@dataclass(frozen=True)
class FileReport:
    """The result of `inspect_file`; `kind` is `onnx`, `safetensors` or `torch`, sizes are bytes.

    `speed`: against the same model in standard operators, if it was measured; `choice`: how, as the file says, the
    layers with sparse operators were chosen, with the times that decided.
    """

    path: str
    kind: str
    bytes_file: int
    sparsity: float
    nonzeros: int
    weights: int
    layers: tuple[LayerRow, ...]
    speed: Speed | None = None
    choice: Mapping[str, Any] | None = None

    @property
    def zeros(self) -> int:
        """weights - nonzeros."""
        return self.weights - self.nonzeros

    @property
    def sparse_layers(self) -> tuple[str, ...]:
        """The names of the weights that sparse operators hold."""
        return sparse_layers(self.layers)

    @property
    def macs(self) -> tuple[int, int] | None:
        """(multiply-adds of one sample, those with weights other than zero), or None."""
        return count_macs(self.layers)

    def to_dict(self) -> dict[str, Any]:
        """All fields and layers, ready for JSON."""
        more = {"zeros": self.zeros, "macs": self.macs, "sparse_layers": list(self.sparse_layers)}
        speed = None if self.speed is None else self.speed.to_dict()
        return {**asdict(self), "layers": [row.to_dict() for row in self.layers], **more, "speed": speed}

    def table(self) -> Table:
        """The layers and their total as a table for rich."""
        table = _layers_table(f"{self.path} ({self.kind})", self.layers, self.bytes_file)
        lines = [self.speed.sentence()] if self.speed is not None else []
        if self.sparse_layers:
            known = dict(self.choice or {})
            how = f", chosen by {known['by']} for batch {known['batch']}" if {"by", "batch"} <= known.keys() else ""
            lines = [f"{len(self.sparse_layers)} layers are sparse operators{how}", *lines, HOW_TO_OPEN]
        table.caption = "\n".join(lines) or None
        return table


def _layers_table(title: str, layers: Sequence[LayerRow], bytes_file: int) -> Table:
    """One line per prunable or encoded tensor, one for all others, and the total of the prunable ones."""
    table = Table(title=title)
    table.add_column("layer", overflow="fold")
    for heading in ("shape", "density", "MACs left", "dense", "bytes", "bound", "stored as"):
        table.add_column(heading, justify="left" if heading == "shape" else "right", no_wrap=True)
    shown = [row for row in layers if _is_shown(row)]
    for row in shown:
        kind = "" if row.dtype == "float32" else f" {row.dtype}"
        how = row.encoding if row.values == "fp32" else f"{row.encoding} {row.values}"
        _add(table, row.name, "x".join(map(str, row.shape)) + kind, [row], how)
    rest = [row for row in layers if not _is_shown(row)]
    if rest:
        _add(table, f"{len(rest)} other tensors", f"{_short(sum(row.size for row in rest))} in all", rest)
    prunable = [row for row in layers if row.prunable]
    table.add_section()
    _add(table, "all prunable", f"{_short(sum(row.size for row in prunable))} in all", prunable)
    table.add_row("the file", *[""] * 4, f"{bytes_file:,}")
    return table


def _is_shown(row: LayerRow) -> bool:
    """Prunable tensors and those that are not stored plainly have a line of their own."""
    return row.prunable or row.encoding != "dense"


def _add(table: Table, name: str, shape: str, rows: Sequence[LayerRow], how: str = "") -> None:
    """One line of numbers for one tensor, or for the sum of several."""
    size, macs = sum(row.size for row in rows), count_macs(rows)
    density = f"{sum(row.nonzeros for row in rows) / size:.4f}" if size else "-"
    dense, stored = sum(row.bytes_dense for row in rows), sum(row.bytes_stored for row in rows)
    bound = _short(sum(row.bytes_bound for row in rows)) if all(row.prunable for row in rows) else "-"
    left = "-" if macs is None else _short(macs[1])
    table.add_row(name, shape, density, left, _short(dense), f"{stored:,}", bound, how)


def _short(number: float) -> str:
    """Three digits and a letter: 4089184256 -> 4.09G."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"
