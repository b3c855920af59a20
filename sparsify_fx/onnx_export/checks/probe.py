"""Load ONNX files in a process of its own and print what that took, as JSON. Imports nothing but onnxruntime and numpy.

python probe.py load FILE                     # seconds, and bytes of the highest resident set above the start
python probe.py latency INPUTS.pickle ROUNDS FILE FILE   # median seconds of a run of each, taken in turns

Every time is given by the clock and in seconds of the processor, which other work on the machine disturbs less.
"""

from __future__ import annotations

import json
import pickle
import statistics
import sys
import time

import onnxruntime

LIBRARY = ""
"""Of custom operators that a file may need: `python probe.py --library PATH load FILE`, or before `latency`."""


def session(path: str) -> onnxruntime.InferenceSession:
    """The file in onnxruntime with one thread, so that figures can be compared."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if LIBRARY:
        options.register_custom_ops_library(LIBRARY)
    return onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"]
    )


def peak_bytes() -> int:
    """The highest resident set of this process so far; 0 where the system does not tell."""
    try:
        with open("/proc/self/status") as lines:
            return next(
                int(line.split()[1]) * 1024
                for line in lines
                if line.startswith("VmHWM")
            )
    except (OSError, StopIteration):
        return 0


def load(path: str) -> dict[str, float]:
    """Load once: seconds, and how much the peak of memory grew."""
    # The peak never falls, so what loading adds is only seen in a process that has loaded
    # nothing yet.
    before, start, busy = peak_bytes(), time.perf_counter(), time.process_time()
    session(path)
    seconds, cpu = time.perf_counter() - start, time.process_time() - busy
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_bytes": peak_bytes() - before}


def latency(inputs: str, rounds: int, paths: list[str]) -> list[dict[str, float]]:
    """Median seconds of a run of each file, after another one of it; in turns, so that other work hits all."""
    with open(inputs, "rb") as file:
        feed = pickle.load(file)  # written by measure.py a moment ago
    sessions = [session(path) for path in paths]
    times: list[list[float]] = [[] for _ in paths]
    busy: list[list[float]] = [[] for _ in paths]
    for turn in range(rounds + 1):
        for place, runtime in enumerate(sessions):
            # So that the timed run does not find another model's values in the caches.
            runtime.run(None, feed)
            start, start_busy = time.perf_counter(), time.process_time()
            runtime.run(None, feed)
            if turn:  # the first run of each only warms up
                times[place].append(time.perf_counter() - start)
                busy[place].append(time.process_time() - start_busy)
    medians = zip(
        map(statistics.median, times), map(statistics.median, busy), strict=True
    )
    return [{"seconds": seconds, "cpu_seconds": cpu} for seconds, cpu in medians]


if __name__ == "__main__":
    if sys.argv[1] == "--library":
        LIBRARY = sys.argv[2]
        del sys.argv[1:3]
    if sys.argv[1] == "load":
        print(json.dumps(load(sys.argv[2])))
    else:
        print(json.dumps(latency(sys.argv[2], int(sys.argv[3]), sys.argv[4:])))
