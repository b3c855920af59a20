"""Runs of a dense file in OpenVINO, in a process of its own, whose Python has it: see `benchmarks.speed_table`.

python -m venv ENVIRONMENT && ENVIRONMENT/bin/pip install openvino==2026.4.0
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

NAME = "OpenVINO"


class OpenVinoRuns:
    """A process that runs a file on inputs of a .npy file, one run at a time; `version` is that of OpenVINO."""

    def __init__(self, python: str, file: Path, inputs: Path, threads: int) -> None:
        self._process = subprocess.Popen(
            [python, __file__, str(file), str(inputs), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.version = self._read()

    def run(self) -> tuple[float, float]:
        """Seconds of one run, after one that is not counted: by the clock, and of the processor."""
        assert self._process.stdin is not None
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        clock, processor = map(float, self._read().split())
        return clock, processor

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise RuntimeError(
                f"the process with {NAME} ended; what it said stands above"
            )
        return line


def main(file: str, inputs: str, threads: str) -> None:
    import numpy as np
    import openvino

    options = {
        "INFERENCE_NUM_THREADS": int(threads),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    images = np.load(inputs)
    core = openvino.Core()
    model = core.read_model(file)
    model.reshape(list(images.shape))
    compiled = core.compile_model(model, "CPU", options)
    request = compiled.create_infer_request()
    print(openvino.__version__, flush=True)
    for _ in sys.stdin:
        request.infer([images])
        clock, processor = time.perf_counter(), time.process_time()
        request.infer([images])
        taken = time.perf_counter() - clock, time.process_time() - processor
        print(*taken, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
