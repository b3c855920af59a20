"""Hostile models of every operator: onnxruntime's errors only, in bounded time and memory.

`python tests/runtime/fuzz_kernels.py LIBRARY COUNT SEED [--memory GB] [--seconds S] [--only NUMBER]`. A crash ends the
process: its last line then says which model that was. `sanitize.py` runs it under AddressSanitizer.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.runtime import cases
from tests.runtime.hostile import hostile_trial

SECONDS = 10.0
"""What one model may take, if --seconds says nothing else: pads of a million pixels are valid, and then computed."""
UNCLEAR = ("std::", "vector::", "basic_string", "bad_alloc", "length_error")
"""Words of C++ that no error of ours is made of."""


def try_one(seed: int, number: int, library: str, seconds: float) -> str:
    """One model: how far it came. Raises AssertionError for errors other than onnxruntime's, and for too much time."""
    trial = hostile_trial(np.random.default_rng([seed, number]), library)
    model, start, stage = trial.model(), time.perf_counter(), "refused at load"
    try:
        session = cases.open_session(model, library, threads=1 + number % 2)
        stage = "refused at run"
        session.run(None, trial.feed())
        stage = "ran"
    except Exception as error:
        text = str(error)
        ours = "sparsify_fx." in text
        if "onnxruntime" not in type(error).__module__ and not isinstance(
            error, ValueError
        ):
            raise AssertionError(f"{type(error).__name__}: {text}") from error
        if (
            ours
            and "onnxruntime has no memory" not in text
            and any(word in text for word in UNCLEAR)
        ):
            raise AssertionError(f"unclear: {text}") from error
        stage += ", by us" if ours else ", by onnxruntime"
    taken = time.perf_counter() - start
    if taken > seconds:
        raise AssertionError(f"{taken:.0f} s, {stage}")
    return stage


def main() -> None:
    """All models of a seed, or one of them again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library")
    parser.add_argument("count", type=int)
    parser.add_argument("seed", type=int)
    parser.add_argument(
        "--memory", type=float, help="GB of address space; not under a sanitizer"
    )
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--only", type=int)
    given = parser.parse_args()
    if given.memory:
        limit = int(given.memory * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    found: Counter[str] = Counter()
    for number in range(given.count) if given.only is None else [given.only]:
        print(f"\rmodel {number}", end="", file=sys.stderr, flush=True)
        try:
            found[try_one(given.seed, number, given.library, given.seconds)] += 1
        except AssertionError as error:
            raise SystemExit(f"\nseed {given.seed}, model {number}: {error}") from error
    print(
        f"\r{sum(found.values())} hostile models: "
        + ", ".join(f"{n} {stage}" for stage, n in found.most_common())
    )


if __name__ == "__main__":
    main()
