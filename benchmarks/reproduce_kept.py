"""Results of the papers' figures that are kept: docs/results/reproduce/KEY-FIGURE-SCALE.json.

    python -m benchmarks.reproduce_kept                               # tiny, all that are not kept yet, one core
    python -m benchmarks.reproduce_kept --only jacobs2025-table1      # one of them; --again replaces what is kept
    python -m benchmarks.reproduce_kept --scale cpu --only gadhikar2025-table4
    python -m benchmarks.reproduce_page                               # then the pages, out of them

Everything is trained in this process, so that the seconds that are kept are those of one core, and figures that share
trainings find them in --runs. A figure with a trial that failed is told, not kept, and tried again the next time.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch

from sparsify_fx.errors import SparsifyError
from sparsify_fx.lab import run_experiment
from sparsify_fx.reproduce import Figure, Reproduced, figures, reproduced
from sparsify_fx.reproduce.figure import SCALES, Scale
from sparsify_fx.reproduce.plans import check_data, write_sweep
from sparsify_fx.sweeps import load_sweep, trials_of
from sparsify_fx.sweeps.driver import Sweep, each_line_once, run_sweep
from sparsify_fx.sweeps.ledger import ledger_path
from sparsify_fx.sweeps.records import read_records
from sparsify_fx.sweeps.trial import Job, Outcome, run_job

RESULTS = Path(__file__).parents[1] / "docs/results/reproduce"


class Here:
    """Trains in this process: its clock is then that of one core."""

    def submit(self, job: Job) -> Future[Outcome]:
        """Train at once; SystemExit when a signal asked that training to end: it asked us."""
        future: Future[Outcome] = Future()
        outcome = run_job(job)
        if outcome.again:
            sys.exit(f"{job.trial}: {outcome.error}")
        future.set_result(outcome)
        return future


def kept_scale(figure: Figure, scale: Scale) -> Scale:
    """The laboratory has no `tiny`, and tables of settings are compared with the recipes of `full`."""
    if figure.kind == "settings":
        return "full"
    return "cpu" if figure.kind == "lab" and scale == "tiny" else scale


def kept_path(figure: Figure, scale: Scale) -> Path:
    """Where the result of a figure is kept."""
    return RESULTS / f"{figure.key}-{figure.name}-{kept_scale(figure, scale)}.json"


def make(
    figure: Figure, scale: Scale, runs: Path, changes: Sequence[str]
) -> Reproduced:
    """Train what is missing, or run the experiment; SparsifyError that names the first trial that failed."""
    out = runs / "figures"
    if figure.kind != "sweep":
        return reproduced(figure, scale, out=out, run=once)
    path = write_sweep(figure, scale, out, changes)
    trials = trials_of(load_sweep(path))
    check_data(figure, trials)
    sweep = Sweep(trials, ledger_path(runs, path), retries=0)
    with each_line_once():
        run_sweep(sweep, Here())
    failed = [entry for entry in sweep.entries.values() if entry.state != "finished"]
    if failed:
        raise SparsifyError(
            f"{len(failed)} trials failed: {failed[0].name}: {failed[0].error}"
        )
    return reproduced(figure, scale, records=read_records([path], runs), out=out)


# Several figures are made by one experiment, which takes up to ten minutes.
once = functools.cache(functools.partial(run_experiment, dpi=110))


def content_of(done: Reproduced, seconds: float) -> dict[str, Any]:
    """What is kept: our points as rows; the paper's are in the catalog."""
    found = done.to_dict()
    for key in ("paper", "reason", "title", "missing"):
        del found[key]
    # Six digits tell two runs apart, and a file of twelve would be twice as long.
    found["ours"] = [
        [
            p.panel,
            p.series,
            p.x,
            _short(p.y),
            p.half if p.half is None else _short(p.half),
            p.n,
        ]
        for p in done.ours
    ]
    found["agreement"]["differences"] = [_short(d) for d in done.agreement.differences]
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {**found, "processor_seconds": round(seconds, 1), **versions}


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def text_of(content: dict[str, Any]) -> str:
    """JSON with a line for each point and verdict."""
    lines = []
    for key, value in content.items():
        if key == "ours":
            rows = ",\n".join(f"  {json.dumps(row)}" for row in value)
            lines.append(f' "ours": [\n{rows}\n ]' if value else ' "ours": []')
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def keep(figure: Figure, scale: Scale, runs: Path, changes: Sequence[str]) -> str:
    """Make one figure and keep it; a line that says what came of it."""
    start = time.process_time()
    try:
        done = make(figure, kept_scale(figure, scale), runs, changes)
    except SparsifyError as error:
        return f"FAILED: {error}"
    seconds = time.process_time() - start
    RESULTS.mkdir(parents=True, exist_ok=True)
    content = content_of(done, seconds)
    kept_path(figure, scale).write_text(text_of(content), encoding="utf-8")
    return f"{seconds:.0f} s: {done.sentence}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--scale", choices=SCALES, default="tiny")
    parser.add_argument("--only", nargs="*", metavar="KEY-FIGURE", default=())
    parser.add_argument("--kinds", nargs="*", default=("sweep", "settings", "lab"))
    parser.add_argument(
        "--runs", type=Path, default=Path(tempfile.gettempdir()) / "sparsify-reproduce"
    )
    parser.add_argument(
        "--set", dest="changes", action="append", default=[], metavar="KEY=VALUE"
    )
    parser.add_argument(
        "--again", action="store_true", help="replace results that are kept"
    )
    given = parser.parse_args()
    given.runs.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    failed = False
    for figure in figures():
        name = f"{figure.key}-{figure.name}"
        wanted = (not given.only or name in given.only) and figure.kind in given.kinds
        if wanted and (given.again or not kept_path(figure, given.scale).exists()):
            told = keep(figure, given.scale, given.runs, given.changes)
            print(f"{name}: {told}", flush=True)
            failed |= told.startswith("FAILED")
    sys.exit(failed)


if __name__ == "__main__":
    main()
