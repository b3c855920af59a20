"""Sparse files beside stock onnxruntime, its 8-bit integers and OpenVINO: docs/results/runtime_speed.json and .md.

    python -m benchmarks.speed_table --openvino PYTHON   # that has openvino 2026.4; half an hour on an idle machine
    python -m benchmarks.speed_table --only resnet50     # these rows again
    python -m benchmarks.speed_table --page              # only write the page from the results again

Models are those of `runtime_speed`: random weights, norms calibrated on real images, pruned by magnitude, each layer
alike or 1x1 layers alone. All run in turn, each twice in a row, and the second run counts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    quantize_static,
)

from benchmarks.openvino_runs import NAME as OPENVINO
from benchmarks.openvino_runs import OpenVinoRuns
from benchmarks.speed_page import AGAIN, DENSE, INT8, NAME, SPARSE, SPARSE_INT8, page
from benchmarks.training_cases import read, write
from sparsify_fx import runtime
from sparsify_fx.onnx_export import pack_onnx
from sparsify_fx.training_cost.surroundings import surroundings

# Where runtime_speed's models are made; it is a script, whose folder Python looks in.
sys.path.insert(0, str(Path(__file__).parent))
from pruned_models import Subject, pruned, subject

RESNET, MOBILE, DEIT = "resnet50", "mobilenetv2_100", "deit_small_patch16_224"


@dataclass(frozen=True)
class Row:
    """A model, the sparsity of its layers, how it is run, and how many times as fast as dense it shall be; 0: as is."""

    model: str
    mask: str
    sparsity: float
    batch: int
    threads: int
    wanted: float = 0.0

    @property
    def name(self) -> str:
        zeros = f"{100 * self.sparsity:g} % of {self.mask} layers"
        return f"{self.model}, {zeros}, batch {self.batch}, {self.threads} threads"


def _rows() -> tuple[Row, ...]:
    wanted = {(RESNET, 1): 4.2, (RESNET, 8): 4.0, (MOBILE, 1): 2.4, (DEIT, 1): 4.0}
    found = [Row(RESNET, "uniform", 0.95, 1, 1, 7.0)]
    for model in (RESNET, MOBILE, DEIT):
        mask = "pointwise" if model == MOBILE else "uniform"
        for threads in (1, 2):
            for batch in (1, 8):
                goal = wanted.get((model, batch), 0.0) if threads == 1 else 0.0
                found.append(Row(model, mask, 0.9, batch, threads, goal))
    return tuple(found)


class Samples(CalibrationDataReader):  # type: ignore[misc]
    """Four real images."""

    def __init__(self, given: Subject) -> None:
        (self.label,) = given.feed(1)
        self.left = iter(given.images[:4].split(1))

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        image = next(self.left, None)
        return None if image is None else {self.label: image.numpy()}


ROWS = _rows()
Timed = Callable[[], tuple[float, float]]


def files_of(row: Row, given: Subject, folder: Path) -> dict[str, Path]:
    """The dense file, its 8-bit one, and the sparse ones with two kinds of values."""
    names = (DENSE, INT8, SPARSE, SPARSE_INT8)
    files = {name: folder / f"{number}.onnx" for number, name in enumerate(names)}
    onnx.save(pruned(given.dense, row.sparsity, row.mask), files[DENSE])
    for name, values in ((SPARSE, "fp32"), (SPARSE_INT8, "int8")):
        pack_onnx(
            files[DENSE],
            files[name],
            target="sparse-ort",
            values=values,
            verify=False,
            inputs=given.feed(row.batch),
        )
    quantize_static(
        files[DENSE],
        files[INT8],
        Samples(given),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
    )
    return files


def timed(file: Path, feed: dict[str, Any], threads: int) -> Timed:
    """Seconds of a run in onnxruntime, after one that is not counted: by the clock, and of the processor."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    # The threads of one session must not spin, waiting for work, while another session is measured.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.register_custom_ops_library(runtime.library())
    session = onnxruntime.InferenceSession(
        file, options, providers=["CPUExecutionProvider"]
    )

    def run() -> tuple[float, float]:
        session.run(None, feed)
        clock, processor = time.perf_counter(), time.process_time()
        session.run(None, feed)
        return time.perf_counter() - clock, time.process_time() - processor

    return run


def measured(row: Row, given: Subject, rounds: int, openvino: str | None) -> dict[str, Any]:  # fmt: skip
    """One row of the results: seconds by the clock and of the processor, for each case and round."""
    feed = given.feed(row.batch)
    (images,) = feed.values()
    with tempfile.TemporaryDirectory() as name:
        files = files_of(row, given, Path(name))
        works = {case: timed(file, feed, row.threads) for case, file in files.items()}
        works[AGAIN] = timed(files[DENSE], feed, row.threads)
        other = None
        if openvino is not None:
            np.save(Path(name) / "inputs.npy", images)
            other = OpenVinoRuns(openvino, files[DENSE], Path(name) / "inputs.npy", row.threads)  # fmt: skip
            works[OPENVINO] = other.run
        sizes = {case: file.stat().st_size for case, file in files.items()}
        taken: dict[str, list[tuple[float, float]]] = {case: [] for case in works}
        for _ in range(rounds):
            for case, work in works.items():
                taken[case].append(work())
        if other is not None:
            other.close()
    return {
        **asdict(row),
        "rounds": rounds,
        "bytes": sizes,
        "clock": {case: [each[0] for each in s] for case, s in taken.items()},
        "processor": {case: [each[1] for each in s] for case, s in taken.items()},
        "openvino": None if other is None else other.version,
        "surroundings": surroundings(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="rows whose name has this text")
    parser.add_argument("--openvino", help="a Python that has openvino")
    parser.add_argument("--data", default="mnist5k", help="real images, see load_data")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    options = parser.parse_args()
    results = read(NAME)
    subjects: dict[str, Subject] = {}
    for row in ROWS:
        if options.page or options.only not in row.name:
            continue
        if row.model not in subjects:
            subjects[row.model] = subject(row.model, options.data)
        given = subjects[row.model]
        results[row.name] = measured(row, given, options.rounds, options.openvino)
        write(NAME, results, page(results, [row.name for row in ROWS]))
        print(row.name, flush=True)
    write(NAME, results, page(results, [row.name for row in ROWS]))


if __name__ == "__main__":
    main()
