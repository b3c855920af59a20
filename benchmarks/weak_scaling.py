"""Steps and bytes of trainings on 1, 2 and 4 processes: docs/results/weak_scaling.md and .json.

    python -m benchmarks.weak_scaling               # about 5 minutes on two cores that do nothing else, 3 GB of memory
    python -m benchmarks.weak_scaling --page        # only write the page from the results again

The processes are those of torchrun with gloo, the steps those of the trainer (benchmarks/weak_scaling_rank.py). What
8 and 64 GPUs would make of the bytes that are counted is computed by benchmarks/link_model.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.link_model import LINKS, Link, Traffic, step_seconds
from benchmarks.training_cases import machine, read, table, write
from sparsify_fx.training_cost.surroundings import surroundings

NAME, ROOT = "weak_scaling", Path(__file__).parents[1]
PROCESSES = (1, 2, 4)

HEAD = """# Several processes

Sign-In at 90 % zeros and dense training, each with the trainer's own steps: resnet20 on images of 32 x 32, 16 images
for each process (weak scaling), gloo over loopback, one thread for each process. Two cores were there, and other work
beside this: four processes take turns on them, so wall time cannot show how well more machines would do. Processor time
of a process shows what communication and the sums cost it, and bytes are counted.

{weak}

`kB given` are those of the tensors that a process gives to collective calls from Python in a step: gradients, and the
sums of synchronized batch norms; of dense training DistributedDataParallel sends the gradients itself, and they are not
counted here. `kB written` are what the kernel saw the process write in a step (/proc/self/io), headers and all. An
all-reduce over N processes writes 2 (N − 1) / N of what it is given. With full storage Sign-In has two factors of each
weight and sends one gradient for both (`living_hook`), with living storage that of the living entries alone.

## Sums that do not depend on the number of processes

The same batch of 64 on each number of processes; `accumulate: 4` adds the gradients of four micro-batches in an order
that the number of processes does not change, and so trains the same bits on all of them. It normalizes each
micro-batch by itself, where the others synchronize batch norms, which on the CPU costs more than all else here: only
the rows of one process compare the sums alone.

{fixed}

## resnet50 on 8 and 64 GPUs, by simulation

The bytes are counted: resnet50 of torchvision at 90 % zeros, every bucket of DistributedDataParallel (25 MiB) with the
moment in the backward pass at which it was ready, by one real step on two processes. The rest is assumed: {compute} ms
for forward and backward of each GPU's images, a third of it forward, in every case (what masks and factors cost a GPU
is not in it); a ring over all GPUs, whose slowest link decides, at full speed; buckets one after the other, each as
soon as it is ready; {latency} µs for each of the 2 (N − 1) hops. Milliseconds of a step, and the part of it in which
the network alone is at work:

{simulated}

{verdict}

Made with `python -m benchmarks.weak_scaling`; all samples, buckets and bytes are in [the raw
results](weak_scaling.json). {machine}
"""
# Assumed: 128 images for each GPU, at 2,500 a second.
COMPUTE, LATENCY = 0.051, 5e-6


def ranks(processes: int, what: str) -> list[Any]:
    """What every rank of a fresh process group measured."""
    with tempfile.TemporaryDirectory() as folder:
        launcher = [
            *("-m", "torch.distributed.run", "--standalone"),
            f"--nproc-per-node={processes}",
        ]
        command = [sys.executable, *(launcher if processes > 1 else [])]
        command += ["-m", "benchmarks.weak_scaling_rank", what, folder]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        files = sorted(Path(folder).glob("rank-*.json"))
        return [json.loads(file.read_text()) for file in files]


def measured() -> dict[str, Any]:
    """All samples."""
    found: dict[str, Any] = {"weak": {}, "fixed": {}}
    for what in ("weak", "fixed"):
        for count in PROCESSES:
            found[what][str(count)] = ranks(count, what)
            print(what, count, flush=True)
    found["resnet50"] = ranks(2, "resnet50")[0]
    return found


def page(results: dict[str, Any]) -> str:
    """The page of these results."""
    traffic = {n: Traffic(**t) for n, t in results["resnet50"].items()}
    return HEAD.format(
        weak=_table(results["weak"]),
        fixed=_table(results["fixed"]),
        simulated=simulated(traffic),
        verdict=verdict(traffic),
        compute=round(COMPUTE * 1000),
        latency=round(LATENCY * 1e6),
        machine=machine(results["surroundings"]),
    )


def _table(found: dict[str, Any]) -> str:
    head = ("", "processes", "wall ms", "processor ms", "kB given", "kB written")
    rows = [head]
    for name in found["1"][0]:
        for count in found:
            cases = [rank[name] for rank in found[count]]
            middle = [
                statistics.median(t for case in cases for t in case[key])
                for key in ("wall", "processor")
            ]
            sent = [
                statistics.mean(case[key] for case in cases)
                for key in ("given", "written")
            ]
            times = [f"{1000 * seconds:.1f}" for seconds in middle]
            rows.append((name, count, *times, *(f"{b / 1000:,.1f}" for b in sent)))
    return table(*rows)


def simulated(traffic: dict[str, Traffic]) -> str:
    """Steps by link and case."""
    rows = [("", "MB a step", *(link.name for link in LINKS))]
    for name, case in traffic.items():
        steps = [_step(case, link) for link in LINKS]
        told = [f"{1000 * t:.1f} ({100 * (1 - COMPUTE / t):.0f} %)" for t in steps]
        rows.append((name, f"{sum(case.buckets) / 1e6:.1f}", *told))
    return table(*rows)


def _step(case: Traffic, link: Link) -> float:
    return step_seconds(case, link, compute=COMPUTE, latency=LATENCY)


def verdict(traffic: dict[str, Traffic]) -> str:
    """Living storage beside dense training, link by link."""
    dense, living = traffic["dense"], traffic["signin living"]
    told = [
        f"{_step(dense, link) / _step(living, link):.2f} ({link.name})"
        for link in LINKS
    ]
    share = sum(living.buckets) / sum(dense.buckets)
    return (
        f"With living storage a step sends {share:.3f} of dense DistributedDataParallel's bytes.\nDense steps would "
        f"take so many times as long: {'; '.join(told)}.\nWhere the network is fast enough, all of it hides behind the "
        "backward pass, and sending less saves nothing."
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", action="store_true", help="measure nothing")
    old = parser.parse_args().page
    results = read(NAME) if old else {"surroundings": surroundings(), **measured()}
    write(NAME, results, page(results))


if __name__ == "__main__":
    main()
