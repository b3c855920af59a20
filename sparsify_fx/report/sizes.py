"""Bytes and milliseconds of a run's model as files: dense, sparse, and for the sparse runtime."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from sparsify_fx.errors import RuntimeLibraryError, SparsifyError
from sparsify_fx.train.restore import Trained, load_trained

# Inputs at a time: with a single one of 28x28 a session's overhead would be all there is to time.
BATCH = 32


@dataclass(frozen=True)
class Sizes:
    """Files that were made of a model for the report, and thrown away.

    Attributes:
        dense, sparse, runtime: bytes of the ONNX file with dense weights, with zeros left out, and for the sparse
            runtime; None where there is none.
        milliseconds_dense, milliseconds: of the processor for a batch, one thread, rounds in turn: the dense file, and
            the one for the sparse runtime.
        said: what else there is to say, such as why something is missing.
    """

    dense: int | None = None
    sparse: int | None = None
    runtime: int | None = None
    milliseconds_dense: float | None = None
    milliseconds: float | None = None
    batch: int = BATCH
    said: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times smaller the sparse file is."""
        return self.dense / self.sparse if self.dense and self.sparse else None

    @property
    def faster(self) -> float | None:
        """Time of the dense file over that of the sparse runtime."""
        if not self.milliseconds_dense or not self.milliseconds:
            return None
        return self.milliseconds_dense / self.milliseconds


def sizes_of(path: Path) -> Sizes:
    """Export the model of a run, finished or not, and time it; what cannot be had is said in words."""
    try:
        trained = load_trained(path)
        with tempfile.TemporaryDirectory() as folder:
            return _sizes(trained, Path(folder))
    except (SparsifyError, OSError) as error:
        return Sizes(said=" ".join(str(error).split()))


def _sizes(trained: Trained, folder: Path) -> Sizes:
    # Late: onnx and its tools take longer to import than all the rest of a report.
    from sparsify_fx.onnx_export import export

    inputs = trained.inputs[:BATCH]
    plain = export(trained.model, folder / "sparse.onnx", inputs[:1])
    try:
        fast = export(
            trained.model,
            folder / "runtime.onnx",
            inputs,
            target="sparse-ort",
            measure=True,
        )
    except RuntimeLibraryError as error:
        said = f"the sparse runtime is not here: {error}"
        return Sizes(plain.bytes_dense, plain.bytes_file, said=said)
    speed = fast.speed
    return Sizes(
        plain.bytes_dense,
        plain.bytes_file,
        fast.bytes_file,
        1000 * speed.cpu_latency_dense if speed else None,
        1000 * speed.cpu_latency if speed else None,
        len(inputs),
        fast.verdict,
    )
