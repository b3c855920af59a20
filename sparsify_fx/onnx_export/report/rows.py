"""One tensor of a file as a row of numbers, and sums over rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sparsify_fx.onnx_export.storage.codecs.encoding import entropy_bytes

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
        """size - nonzeros; -0.0 and the zero point of a quantized tensor count as zeros."""
        return self.size - self.nonzeros

    @property
    def is_quantized(self) -> bool:
        """Whether this is a weight of 8-bit integers, which its layer computes with as they are."""
        return self.prunable and self.dtype in ("int8", "uint8")

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
        # Dense bytes may hold a name; packed entries are narrower than a byte.
        bits = 8 * round(width) if width > 0.9 else round(8 * width)
        return entropy_bytes(self.size, self.nonzeros, bits)

    def to_dict(self) -> dict[str, Any]:
        """All fields with zeros, density, remaining MACs and the bound, ready for JSON."""
        more = {
            "zeros": self.zeros,
            "density": self.density,
            "macs_remaining": self.macs_remaining,
        }
        return {
            **asdict(self),
            "shape": list(self.shape),
            **more,
            "bytes_bound": self.bytes_bound,
        }


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
    return sum(row.macs or 0 for row in known), sum(
        row.macs_remaining or 0 for row in known
    )


def sparse_layers(layers: Sequence[LayerRow]) -> tuple[str, ...]:
    """The names of the weights whose zeros sparse operators skip; dense ones that they hold as well do not count."""
    return tuple(
        row.name for row in layers if row.encoding == SPARSE and row.nonzeros < row.size
    )
