"""Memory and checkpoints of sparse training beside dense training: docs/results/training_memory.md and .json.

    python -m benchmarks.training_memory                     # about 3 minutes on one core, 5 GB of memory
    python -m benchmarks.training_memory --page              # only write the page from the results again

Nothing here depends on the load of the machine.
"""

from __future__ import annotations

import argparse
import gc
import logging
import warnings
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.training_cases import machine, naive_case, read, table, write
from sparsify_fx.training_cost.measure import sparse_case
from sparsify_fx.training_cost.memory import KINDS, MADE, memory_of
from sparsify_fx.training_cost.result import DENSE
from sparsify_fx.training_cost.setting import Setting
from sparsify_fx.training_cost.surroundings import surroundings
from sparsify_fx.training_cost.trainee import Case, Trainee

NAME, SPARSITY = "training_memory", 0.9
SETTINGS = (
    Setting("torchvision:resnet50", 4, "adamw"),
    Setting("timm:deit_small_patch16_224", 4, "adamw"),
)
WANTED_PEAK, WANTED_FILE = 0.65, 0.35

HEAD = """# Memory of training

Sign-In at 90 % zeros with AdamW, in MB. `full` keeps factors, gradients and optimizer state for all weights,
`living` for the entries that the mask keeps; the naive m ⊙ w is the papers' listing by
`torch.nn.utils.parametrize`.

The first columns are counted from the tensors that are kept from step to step (gradients: when all are there). The
peak is measured: the allocations of a whole step, forward to optimizer, as torch's profiler notes them, without
those whose size changes with the batch, which are activations. It holds what a step makes itself, such as products
of factors, weights that the graph keeps for its backward, and dense gradients. `made in the step` is its part in
the peak. The checkpoint is the file with the state dicts of model and optimizer.

{tables}

Wanted of `living`: a peak of at most {peak:.2f} of dense, a checkpoint of at most {file:.2f}. {verdict}

Made with `python -m benchmarks.training_memory`; all bytes are in [the raw results](training_memory.json).
{machine}
"""


def cases(setting: Setting) -> list[Case]:
    """Those that are compared; dense comes first."""
    return [
        Case(DENSE, setting.model),
        naive_case(setting, SPARSITY),
        sparse_case(setting, "signin", SPARSITY, "full"),
        sparse_case(setting, "signin", SPARSITY, "living"),
    ]


def measured(setting: Setting) -> dict[str, Any]:
    """The bytes of all cases, one after the other."""
    found = {}
    for case in cases(setting):
        found[case.name] = memory_of(Trainee(case, setting)).to_dict()
        print(f"{setting.work} {case.name}: {found[case.name]['peak']:,}", flush=True)
        # Programs lie in cycles of references, and their tensors with them.
        gc.collect()
    return {"setting": asdict(setting), "cases": found}


def page(results: dict[str, Any]) -> str:
    """The page of these results."""
    tables, verdicts = [], []
    for name, found in results["models"].items():
        tables.append(f"## {name}\n\n{_table(found)}")
        dense, living = (found["cases"][c] for c in (DENSE, "signin living"))
        peak, file = (living[k] / dense[k] for k in ("peak", "checkpoint"))
        held = peak <= WANTED_PEAK and file <= WANTED_FILE
        word = "holds" if held else "does not hold"
        verdicts.append(f"{name}: {peak:.2f} and {file:.2f}, which {word}.")
    return HEAD.format(
        tables="\n\n".join(tables),
        peak=WANTED_PEAK,
        file=WANTED_FILE,
        verdict=" ".join(verdicts),
        machine=machine(results["surroundings"]),
    )


def _table(found: dict[str, Any]) -> str:
    head = ("", *KINDS, MADE, "peak", "of dense", "with activations", "checkpoint")
    rows = [(*head, "of dense")]
    dense = found["cases"][DENSE]
    for name, case in found["cases"].items():
        kept = [_megabytes(case["kept"][kind]) for kind in KINDS]
        made = _megabytes(case["at_peak"][MADE])
        peak, most = _megabytes(case["peak"]), _megabytes(case["with_activations"])
        ratios = [f"{case[k] / dense[k]:.2f}" for k in ("peak", "checkpoint")]
        file = _megabytes(case["checkpoint"])
        rows.append((name, *kept, made, peak, ratios[0], most, file, ratios[1]))
    return table(*rows)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", action="store_true", help="measure nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    if options.page:
        results = read(NAME)
    else:
        models = {setting.work: measured(setting) for setting in SETTINGS}
        results = {"surroundings": surroundings(), "models": models}
    write(NAME, results, page(results))


if __name__ == "__main__":
    main()
