"""What export and inspection found, as data and as tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from sparsify_fx.onnx_export.checks.measure import Speed
from sparsify_fx.onnx_export.checks.verify import HOW_TO_OPEN
from sparsify_fx.onnx_export.files.metadata import chosen_how
from sparsify_fx.onnx_export.report.rows import (
    SPARSE,
    LayerRow,
    count_macs,
    sparse_layers,
)
from sparsify_fx.onnx_export.report.tables import layers_table
from sparsify_fx.passes.onnx_graph import PassRow, passes_table
from sparsify_fx.tables.shown import Shown


@dataclass(frozen=True, repr=False)
class ExportReport(Shown):
    """The result of `export`, `pack_onnx` and `unpack_onnx`: sizes in bytes, sparsity of the prunable weights.

    `bytes_dense`: the same ONNX model with dense initializers; `ratio` = bytes_dense / bytes_file; `bytes_bound`: the
    same with `LayerRow.bytes_bound` for every prunable weight. The differences are between onnxruntime and `reference`
    (PyTorch, or the file that was packed): absolute, and relative to the largest entry of the output; None if they were
    not compared. `speed`: what was measured with `measure`. `notes`: what else the user should know. `unpacked`: the
    file is the result of `unpack_onnx`.
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
    unpacked: bool = False

    def headline(self) -> str:
        """File, size and sparsity."""
        return (
            f"{self.path}, {self.bytes_file:,} of {self.bytes_dense:,} bytes, sparsity {self.sparsity:.4g}, "
            f"target {self.target}"
        )

    def tables(self) -> tuple[Table, ...]:
        """Layers, and what the passes over the graph removed."""
        passes = self.passes_table()
        return (self.table(),) if passes is None else (self.table(), passes)

    @property
    def bytes_bound(self) -> float:
        """The dense file with every prunable weight at its bound."""
        return self.bytes_dense + sum(
            row.bytes_bound - row.bytes_dense for row in self.layers if row.prunable
        )

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
        if self.unpacked:
            return "plain weights again, for any tool and runtime"
        # Half a percent is names and metadata, not zeros.
        if self.bytes_file < 0.995 * self.bytes_dense:
            size = (
                f"the file is {self.ratio:.1f}x smaller"
                if self.ratio >= 1.05
                else "the file is hardly smaller"
            )
        else:
            size = f"the file is not smaller at sparsity {self.sparsity:.3f} (that takes about 0.5)"
        if self.target != SPARSE:
            return f"stock onnxruntime gains no speed from zeros; {size}"
        prunable = sum(row.prunable for row in self.layers)
        held = f"{len(self.sparse_layers)} of {prunable} layers skip their zeros"
        return f"{held}, {self._measured_speed()}; {size}"

    def _measured_speed(self) -> str:
        """What is known about the speed of a file with sparse operators."""
        quantized = sum(row.is_quantized for row in self.layers)
        if not self.sparse_layers and quantized:
            return f"{quantized} are quantized and stay as they were, as fast as before"
        if not self.sparse_layers:
            return "the others would not be faster: the file is as fast as a dense one"
        if self.speed is None:
            return "how much faster that is was not measured (measure=True, --measure)"
        faster = (
            1 / self.speed.cpu_latency_ratio
        )  # other work on the machine disturbs that less than the clock
        if faster < 1.05:
            return f"which is not faster than dense here: {faster:.2f}x in the same run"
        return f"{faster:.1f}x as fast as dense in the same run, one thread"

    @property
    def advice(self) -> str:
        """Why the file is not faster, or how it is run, and what would help."""
        if self.unpacked:
            return (
                "to quantize, convert or simplify it, do that first and pack the result"
            )
        macs = self.macs
        share = (
            ""
            if macs is None or not macs[0]
            else f"; {macs[1] / macs[0]:.0%} of the multiply-adds are needed"
        )
        if self.target == SPARSE and self.sparse_layers:
            return f"{HOW_TO_OPEN}{share}"
        if self.target == SPARSE:
            return f"the file has no sparse operators: any onnxruntime runs it{share}"
        return (
            "stock onnxruntime multiplies by zeros as by any other number, so a packed file runs as fast as a dense "
            f'one{share}. Faster: target="{SPARSE}" (--target {SPARSE}), whose kernels skip zeros, or whole channels '
            "pruned, which can be removed. Quantizers, float16 converters and simplifiers come before packing: they do "
            "not look into packed weights"
        )

    def to_dict(self) -> dict[str, Any]:
        """All fields, layers, bound, verdict and advice, ready for JSON."""
        more = {
            "verdict": self.verdict,
            "advice": self.advice,
            "bytes_bound": self.bytes_bound,
            "macs": self.macs,
        }
        more["sparse_layers"] = list(self.sparse_layers)
        speed = None if self.speed is None else self.speed.to_dict()
        return {
            **asdict(self),
            "layers": [row.to_dict() for row in self.layers],
            **more,
            "speed": speed,
        }

    def table(self) -> Table:
        """The layers and their total as a table for rich."""
        table = layers_table(self.path, self.layers, self.bytes_file)
        if self.max_abs_difference is None:
            checked = f"not compared with {self.reference}"
            checked = (
                f"every tensor has its bits in {self.reference}"
                if self.unpacked
                else checked
            )
        else:
            checked = (
                f"largest difference to {self.reference} {self.max_abs_difference:.1e}"
            )
        sizes = (
            f"{self.bytes_dense:,} bytes dense, {self.bytes_file:,} here, "
            f"{self.bytes_bound:,.0f} at the entropy bound"
        )
        speed = "" if self.speed is None else f"; {self.speed.sentence()}"
        lines = [f"{sizes}; {checked}{speed}; {self.verdict}", *self.notes, self.advice]
        table.caption = "\n".join(lines)
        return table

    def passes_table(self) -> Table | None:
        """What the passes over the graph removed, as a table for rich; None when nothing was to be removed."""
        return passes_table(self.passes)


@dataclass(frozen=True, repr=False)
class FileReport(Shown):
    """The result of `inspect_file`; `kind` is `onnx`, `safetensors` or `torch`, sizes are bytes.

    `speed`: against the same model in standard operators, if it was measured; `measured_for`: for which sizes, where
    the file leaves some open; `choice`: how, as the file says, the layers with sparse operators were chosen, with the
    sizes and times that decided; `notes`: of which parts a checkpoint's totals are the sum, and what is not shown.
    """

    path: str
    kind: str
    bytes_file: int
    sparsity: float
    nonzeros: int
    weights: int
    layers: tuple[LayerRow, ...]
    speed: Speed | None = None
    measured_for: str = ""
    choice: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()

    def headline(self) -> str:
        """File, size and sparsity."""
        return f"{self.path} ({self.kind}), {self.bytes_file:,} bytes, sparsity {self.sparsity:.4g}"

    @property
    def zeros(self) -> int:
        """Prunable weights that are zero."""
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
        more = {
            "zeros": self.zeros,
            "macs": self.macs,
            "sparse_layers": list(self.sparse_layers),
        }
        speed = None if self.speed is None else self.speed.to_dict()
        return {
            **asdict(self),
            "layers": [row.to_dict() for row in self.layers],
            **more,
            "speed": speed,
        }

    def table(self) -> Table:
        """The layers and their total as a table for rich."""
        table = layers_table(f"{self.path} ({self.kind})", self.layers, self.bytes_file)
        lines = [self.speed.sentence()] if self.speed is not None else []
        lines += [self.measured_for] if self.measured_for else []
        if self.sparse_layers:
            how = chosen_how(self.choice or {})
            lines = [
                f"{len(self.sparse_layers)} layers are sparse operators{how}",
                *lines,
                HOW_TO_OPEN,
            ]
        table.caption = "\n".join([*lines, *self.notes]) or None
        return table
