"""Kill trainings at random, let them go on, and compare what comes out bit by bit: docs/results/kills.json.

    python -m benchmarks.kills                         # 300 kills; docs/resuming.md gets the figures
    python -m benchmarks.kills --kills 20 --minutes 2 --out kills.json
    python -m benchmarks.kills --minutes 90 --patience 10 --limit 300   # on a machine with other work

Each training is small (30 to 90 steps) and is killed up to four times, each time at another place:
    process    SIGKILL at a random instant
    rank       the same, to one of two processes (DistributedDataParallel, gloo); the other has to end in words
    all        the same, to both
    worker     SIGKILL to a process that decodes images; the training has to end in words
    write, fsync, rename, append   the process kills itself before, in the middle of or after such a call: of a
               checkpoint, a state, a file of the run, or a line of the metrics
    SIGTERM, SIGUSR1               asked to leave: it has to save and end with code 75
Then it is run to its end, and every file of its folder is compared with that of a run that nothing disturbed: weights,
masks, optimizer, random states, metrics. Processes are forked from one that has imported everything, which saves
seconds for each; they train, write and die as any other.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import signal
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.kill_faults import OPERATIONS, WHEN, Fault
from benchmarks.kill_page import write_page
from benchmarks.kill_runs import (
    ENDED_IN_WORDS,
    FINISHED,
    STARTED,
    Case,
    Limits,
    Process,
    content,
    differing,
    in_memory,
    left,
    prepare,
    stands,
    start,
    streamed,
    temporaries,
    wait,
)
from sparsify_fx.errors import CheckpointError
from sparsify_fx.train import load_config, train
from sparsify_fx.train.signals import LEFT
from sparsify_fx.training_cost.surroundings import surroundings

METHODS = ("lrr+signin", "gmp", "rigl", "acdc+signin", "pilot")
ASKED = {"SIGTERM": signal.SIGTERM, "SIGUSR1": signal.SIGUSR1}
RESULT = Path("docs/results/kills.json")
# Of a training under way, and of processes one of which is gone before they have met.
WORDS = ("the same command goes on from the", "processes do not find each other")
# Calls of a run; most faults with a higher number would never happen.
MOST_CALLS = {"write": 160, "fsync": 60, "rename": 40, "append": 9}


@dataclass
class Kill:
    """What was done to a training, and what came of it.

    seconds: from its start; checkpoint: epochs and steps of what it left; temporaries: files that it left half-written;
    codes: exit codes of its processes, minus the signal for those that one ended; told: whether a process did not
    notice by itself that the other was gone, and got SIGTERM as from torchrun.
    """

    kind: str
    fault: Fault | None = None
    seconds: float = 0.0
    checkpoint: list[int] | None = None
    temporaries: int = 0
    codes: list[int | None] = field(default_factory=list)
    told: bool = False
    wrong: str = ""


@dataclass(frozen=True)
class Reference:
    """A training that nothing disturbed: what its folder holds, and how long it took."""

    content: dict[str, Any]
    seconds: float


def undisturbed(case: Case, folder: Path, limits: Limits) -> Reference:
    """Run a training to its end."""
    runs, begun = folder / "runs", time.perf_counter()
    processes = start(case, runs)
    wait(processes, limits)
    if [process.status for process in processes] != [FINISHED] * case.processes:
        raise SystemExit(f"{case.name}: {processes[0].log.read_text()}")
    (run,) = runs.iterdir()
    return Reference(content(run), time.perf_counter() - begun)


def kinds(case: Case) -> list[str]:
    """What may be done to a training."""
    if case.workers:
        return ["worker", "worker", "process"]
    if case.processes > 1:
        return ["rank", "rank", "all", *OPERATIONS, *ASKED]
    return ["process", "process", *OPERATIONS, *ASKED]


def strike(kind: str, processes: list[Process], draw: random.Random) -> bool:
    """Do it to the processes of a training; whether it met one that was alive."""
    if kind == "worker":
        found = [worker for process in processes for worker in process.workers()]
        if not found:
            return False
        os.kill(draw.choice(found), signal.SIGKILL)
        return True
    if kind == "rank" or kind in ASKED:
        number = ASKED.get(kind, signal.SIGKILL)
        return draw.choice(processes).kill(number)
    met = [process.kill(signal.SIGKILL) for process in processes]
    return all(met)


def disturbed(
    case: Case, runs: Path, seconds: float, draw: random.Random, limits: Limits
) -> Kill | None:
    """Start a training and do something to it; None where it had ended before."""
    kill = Kill(draw.choice(kinds(case)))
    if kill.kind in OPERATIONS:
        # Small numbers more often: what is left of a resumed training makes fewer calls.
        number = draw.randint(1, draw.randint(1, MOST_CALLS[kill.kind]))
        kill.fault = Fault(kill.kind, number, draw.choice(WHEN))
    begun = time.perf_counter()
    processes = start(case, runs, kill.fault)
    met = kill.fault is not None
    if not met:
        time.sleep(draw.uniform(0, 0.8 * seconds))
        met = strike(kill.kind, processes, draw)
        kill.seconds = round(time.perf_counter() - begun, 4)
    hung = not wait(processes, limits)
    kill.codes = [process.status for process in processes]
    kill.told = any(process.told for process in processes)
    # A fault whose call never came, and a signal after the last step, disturb nothing: the result is there.
    if not met or FINISHED in kill.codes:
        return None
    kill.seconds = kill.seconds or round(time.perf_counter() - begun, 4)
    kill.temporaries = len(temporaries(runs))
    kill.wrong = "hung" if hung else _wrong_end(kill, processes)
    try:
        kill.checkpoint = stands(runs)
    except CheckpointError as error:
        kill.wrong = f"a checkpoint that cannot be read: {error}"
    return kill


def _wrong_end(kill: Kill, processes: list[Process]) -> str:
    """What is wrong with the ends of a training's processes: those that were not killed shall end in words."""
    # 1. Whoever was asked to leave saves and leaves; before the training has begun, a signal ends it as any process.
    allowed = {LEFT, -ASKED[kill.kind]} if kill.kind in ASKED else {-signal.SIGKILL}
    # 2. The others of one that is gone, and a training whose worker is gone, end in words.
    if kill.kind == "worker" or any((code or 0) < 0 for code in kill.codes):
        allowed.add(ENDED_IN_WORDS)
    for process in processes:
        told, status = process.log.read_text()[-2000:], process.status or 0
        late = {-signal.SIGTERM, LEFT} if process.told else set[int]()
        if status not in allowed | late:
            return f"ended with {status}: {told}"
        if status == ENDED_IN_WORDS and not any(words in told for words in WORDS):
            return f"ended with other words: {told}"
    return ""


def trial(
    case: Case,
    reference: Reference,
    folder: Path,
    draw: random.Random,
    limits: Limits,
) -> dict[str, Any]:
    """One training that is killed up to four times and then run to its end."""
    runs, kills = folder / "runs", []
    for _ in range(draw.randint(1, 4)):
        kill = disturbed(case, runs, reference.seconds, draw, limits)
        if kill is None:
            break
        kills.append(kill)
    processes = start(case, runs)
    ended = wait(processes, limits) and all(p.status == FINISHED for p in processes)
    if not ended:
        wrong = [f"did not finish: {processes[0].log.read_text()[-2000:]}"]
    else:
        (run,) = runs.iterdir()
        wrong = list(differing(content(run), reference.content))
        wrong += temporaries(runs)
    return {
        "training": case.name,
        "kills": [asdict(kill) for kill in kills],
        "differences": wrong,
    }


def measure(
    kills: int,
    minutes: float,
    seed: int,
    processes: tuple[int, ...],
    limits: Limits,
) -> list[dict[str, Any]]:
    """Trials until so many kills were made, or the time is over."""
    draw, deadline = random.Random(seed), time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prepare(folder)
        cases = [in_memory(method, folder, n) for n in processes for method in METHODS]
        cases += [in_memory("lrr+signin", folder, 1, often=False)]
        # As often as all others of one process together: its kinds of kills are its own.
        cases += [streamed("lrr+signin", folder)] * 4
        references: dict[Case, Reference] = {}
        trials: list[dict[str, Any]] = []
        made = 0
        while made < kills and time.monotonic() < deadline:
            case = draw.choice(cases)
            with tempfile.TemporaryDirectory(dir=folder) as here:
                if case not in references:
                    references[case] = undisturbed(case, Path(here), limits)
            with tempfile.TemporaryDirectory(dir=folder) as here:
                trials.append(trial(case, references[case], Path(here), draw, limits))
            made += len(trials[-1]["kills"])
            wrong = [kill["wrong"] for kill in trials[-1]["kills"] if kill["wrong"]]
            for told in (*trials[-1]["differences"], *wrong):
                print(f"{case.name}: {told}", flush=True)
    trials[-1]["differences"] += left(STARTED)
    return trials


def share(seconds: float) -> dict[str, float]:
    """The part of a training's time at the default settings that goes to checkpoints, of a training of so long."""
    epochs = 10
    while True:
        with tempfile.TemporaryDirectory() as runs:
            keys = [
                f"epochs={epochs}",
                "device=cpu",
                "method=lrr+signin",
                "sparsity=0.2",
            ]
            config = load_config("mnist5k-lenet5", keys)
            begun = time.perf_counter()
            result = train(config, runs_dir=runs, progress=False, tensorboard=False)
            whole = time.perf_counter() - begun
        if whole >= seconds:
            return {
                "seconds": round(whole, 2),
                "checkpoint_seconds": round(result.checkpoint_seconds, 4),
                "share": round(result.checkpoint_seconds / whole, 5),
            }
        epochs = round(epochs * max(1.2, 1.1 * seconds / whole))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--share-seconds", type=float, default=30)
    parser.add_argument(
        "--patience",
        type=float,
        default=Limits.patience,
        help="seconds in which processes may notice that one of them is gone",
    )
    parser.add_argument(
        "--limit",
        type=float,
        default=Limits.hung,
        help="seconds after which a training counts as hung",
    )
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    limits = Limits(args.patience, args.limit)
    # One thread: what is forked must not wait for threads that only the parent has.
    torch.set_num_threads(1)
    found = {"surroundings": surroundings()}
    if args.share_seconds:
        found["at_the_defaults"] = share(args.share_seconds)
    begun = time.perf_counter()
    trials = measure(args.kills, args.minutes, args.seed, tuple(args.processes), limits)
    made = [kill for trial in trials for kill in trial["kills"]]
    counts = collections.Counter(kill["kind"] for kill in made)
    found |= {
        "seed": args.seed,
        "patience": limits.patience,
        "seconds": round(time.perf_counter() - begun, 1),
        "trainings": len(trials),
        "kills": counts.total(),
        "by_kind": dict(sorted(counts.items())),
        "found_half_written": sum(bool(kill["temporaries"]) for kill in made),
        "within_an_epoch": sum(
            bool((kill["checkpoint"] or [0, 0])[1]) for kill in made
        ),
        "told_as_by_torchrun": sum(kill["told"] for kill in made),
        "trainings_that_differ": sum(bool(t["differences"]) for t in trials),
        "kills_without_words": sum(bool(kill["wrong"]) for kill in made),
        "trials": trials,
    }
    print(json.dumps({k: v for k, v in found.items() if k != "trials"}, indent=1))
    args.out.write_text(_lines(found), encoding="utf-8")
    if args.out == RESULT:
        write_page(found)
    raise SystemExit(
        bool(found["trainings_that_differ"] or found["kills_without_words"])
    )


def _lines(found: dict[str, Any]) -> str:
    """JSON with a line for each trial."""
    trials = ",\n".join(f"  {json.dumps(trial)}" for trial in found["trials"])
    head = json.dumps({k: v for k, v in found.items() if k != "trials"}, indent=1)
    return f'{head[:-2]},\n "trials": [\n{trials}\n ]\n}}\n'


if __name__ == "__main__":
    main()
