"""What `export` is given besides the model, looked at before anything else is done."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real

from sparsify_fx.errors import ExportError
from sparsify_fx.onnx_export.storage.codecs import VALUES


def check_words(metadata: object, opset: object) -> None:
    """ExportError for metadata that are no mapping from text to text, and for an opset that is no whole number.

    Which opsets torch.onnx can write, it tells itself.
    """
    given = metadata if isinstance(metadata, Mapping) else {0: metadata}
    words = [*given.keys(), *given.values()]
    if metadata is not None and not all(isinstance(each, str) for each in words):
        raise ExportError(
            f"metadata={metadata!r} must be a mapping from text to text, for instance {{'data': 'cifar10'}}"
        )
    if opset is not None and (isinstance(opset, bool) or not isinstance(opset, int)):
        raise ExportError(
            f"opset={opset!r} must be a whole number, for instance 18, or None"
        )


def limit_of(tolerance: float | None, values: str) -> float:
    """The tolerance to use: its default depends on whether the values lose something."""
    if tolerance is None:
        return 1e-4 if VALUES[values].lossless else math.inf
    number = isinstance(tolerance, Real)
    if not (number and math.isfinite(tolerance) and tolerance > 0):
        raise ExportError(
            f"tolerance={tolerance!r} must be a positive finite number, for instance 1e-4"
        )
    return tolerance
