"""Torch-Pruning on the models of `sparsify-fx coverage --structured`: docs/results/torch_pruning_coverage.json and .md.

    python -m venv env && env/bin/pip install torch-pruning==1.6.0 torchvision timm -e .     # its environment
    python -m benchmarks.torch_pruning_coverage --torch-pruning env/bin/python --suite torchvision
    python -m benchmarks.torch_pruning_coverage --torch-pruning env/bin/python --suite timm --max-parameters 6000000
    python -m benchmarks.torch_pruning_coverage --ours coverage.json       # beside what our own command wrote
    python -m benchmarks.torch_pruning_coverage --page                     # only write the page from the results again

A model passes when half of the multiply-adds go, outputs keep their shape, and it trains a step, as there. Each runs in
a process of its own, with a limit on its processor time; models whose result is there are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.training_cases import machine, read, table, write
from sparsify_fx.coverage.results import ModelResult, read_results
from sparsify_fx.coverage.suites import SUITES, Subject, shard, subjects
from sparsify_fx.training_cost.surroundings import surroundings

NAME, THEIRS, OURS = "torch_pruning_coverage", "Torch-Pruning", "ours"
NEAR = 0.55  # of the multiply-adds: within a tenth of the half that was asked for
# The checks of `sparsify-fx coverage --structured` whose notes begin with the share that is left.
CHECKS = ("multiply-adds", "structured")

PAGE = """# Torch-Pruning on the same models

Half of the multiply-adds of each model removed by channels: *passes* are models whose outputs keep their shape,
which train a step, and of which at most {near:.0%} of the multiply-adds are left. Torch-Pruning {version} is
`GroupNormPruner`, told the layers that make outputs and the heads of attention, as its own examples do; *ours* is
`sparsify-fx coverage --structured`.

{summary}

Models that do not pass in both:

{rows}

Made with `python -m benchmarks.torch_pruning_coverage`, of the models that it has been run on so far; [raw
results](torch_pruning_coverage.json). {machine}
"""


def examine(subject: Subject, python: str, seconds: int) -> dict[str, Any]:
    """What became of one model: the share that is left, or the error."""
    command = [python, "-m", "benchmarks.torch_pruning_worker", "cover"]
    command += [subject.suite, subject.name, "--seconds", str(seconds)]
    root = Path(__file__).parents[1]
    # As in its own example for timm: it follows autograd's graph, which a fused attention hides.
    around = {**os.environ, "TIMM_FUSED_ATTN": "0"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=around)
    for line in reversed(done.stdout.splitlines()):
        # Libraries print too.
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    # The limit on processor time ends it by a signal, without a word.
    code = done.returncode
    if code in (-9, -24):
        return {"error": f"took more than {seconds} s of the processor"}
    return {"error": f"ended with code {code}"}


def passes(found: dict[str, Any] | None) -> bool:
    """Whether a model is as small as was asked, within a tenth."""
    return bool(found) and found.get("share", 1.0) <= NEAR  # type: ignore[union-attr]


def add_ours(results: dict[str, Any], file: Path) -> None:
    """Outcomes of `sparsify-fx coverage --structured --json FILE`, for the models that it has."""
    for model in read_results(file, same_versions=False):
        key = f"{model.suite}/{model.name}"
        if key in results["models"]:
            results["models"][key][OURS] = _outcome(model)


def _outcome(model: ModelResult) -> dict[str, Any]:
    """The share that our own check found left, also where it is more than was asked for; else the first failure."""
    for name, outcome in model.checks.items():
        first = outcome.note.split(" ", 1)[0]
        if name in CHECKS and first.replace(".", "", 1).isdigit():
            # Too much left is a failure of that check alone, which the share tells.
            others = {n: r for n, r in model.failures().items() if n != name}
            return {"error": next(iter(others.values()))} if others else {"share": float(first)}  # fmt: skip
    return {"error": next(iter(model.failures().values()), "not examined")}


def page(results: dict[str, Any]) -> str:
    """docs/results/torch_pruning_coverage.md."""
    models = results["models"]
    summary = [("suite", "models", THEIRS, "of them also run by us", OURS)]
    for suite in SUITES:
        mine = [m for key, m in models.items() if key.startswith(f"{suite}/")]
        both = [m for m in mine if OURS in m]
        summary.append(
            (
                suite,
                str(len(mine)),
                str(sum(passes(m[THEIRS]) for m in mine)),
                str(len(both)),
                str(sum(passes(m[OURS]) for m in both)),
            )
        )
    rows = [("model", THEIRS, OURS)]
    for key, model in models.items():
        if not (passes(model[THEIRS]) and passes(model.get(OURS, model[THEIRS]))):
            rows.append((key, _said(model[THEIRS]), _said(model.get(OURS))))
    return PAGE.format(
        near=NEAR,
        version=results.get("version", "1.6"),
        summary=table(*summary),
        rows=table(*rows),
        machine=machine(results["surroundings"]),
    )


def _said(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not run"
    if "error" in found:
        # Line ends and bars would end a row of the table.
        return " ".join(str(found["error"]).replace("|", "/").split())[:160]
    return f"{found['share']:.3f} of the multiply-adds"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch-pruning", help="a Python that has torch-pruning")
    parser.add_argument("--suite", choices=SUITES)
    parser.add_argument("--max-parameters", type=int)
    parser.add_argument("--models", action="append", default=[], metavar="NAME")
    parser.add_argument("--shard", default="1/1", metavar="I/N")
    parser.add_argument("--seconds", type=int, default=300, help="of the processor")
    parser.add_argument("--ours", type=Path, help="what `coverage --json` wrote")
    parser.add_argument("--page", action="store_true", help="only write the page")
    options = parser.parse_args()
    results = read(NAME) or {"models": {}}
    if options.suite is not None:
        if options.torch_pruning is None:
            parser.error("--torch-pruning is needed, a Python that has it")
        found = subjects(
            options.suite, max_parameters=options.max_parameters, names=options.models
        )
        results["surroundings"] = surroundings()
        for subject in shard(found, options.shard):
            key = f"{subject.suite}/{subject.name}"
            if key in results["models"]:
                continue
            outcome = examine(subject, options.torch_pruning, options.seconds)
            results["version"] = outcome.pop("version", results.get("version", "1.6"))
            results["models"][key] = {"parameters": subject.parameters, THEIRS: outcome}
            print(f"{key}: {_said(outcome)}", flush=True)
            write(NAME, results, page(results))
    if options.ours is not None:
        add_ours(results, options.ours)
    if not results["models"]:
        parser.error("there are no results yet: give --suite and --torch-pruning")
    write(NAME, results, page(results))


if __name__ == "__main__":
    main()
