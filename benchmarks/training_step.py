"""Sparse training steps beside dense ones: docs/results/training_step.md and .json.

    python -m benchmarks.training_step                       # 15 to 20 minutes on one core of an idle machine
    python -m benchmarks.training_step --only mlp --rounds 5 # these rows again, quickly; the others stay
    python -m benchmarks.training_step --page                # only write the page from the results again

One thread, processor time. Each round takes a step of every training in turn, and dense is there twice, so that its
second ratio shows the noise. "full" is what every version before living storage did: factors, gradients and optimizer
state of the weight's shape.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import torch

import sparsify_fx
from benchmarks.training_cases import NAIVE, machine, naive_case, read, table, write
from sparsify_fx.training_cost.measure import compare, sparse_case
from sparsify_fx.training_cost.prune_events import through_schedules
from sparsify_fx.training_cost.result import AGAIN, DENSE
from sparsify_fx.training_cost.setting import Setting
from sparsify_fx.training_cost.surroundings import surroundings
from sparsify_fx.training_cost.timing import clock_of
from sparsify_fx.training_cost.trainee import Case, Trainee

NAME, SPARSITY = "training_step", 0.9
SIGNIN = ("signin full", "signin living")
KERNELS = "signin kernels"
MASKS = (
    "signin living",
    "random full",
    "random living",
    "lrr full",
    "lrr living",
)


@dataclass(frozen=True)
class Row:
    """One line of the table: what is trained, by whom, and the ratio to dense that is wanted of the living ones."""

    setting: Setting
    wanted: float
    sparse: tuple[str, ...] = SIGNIN

    @property
    def name(self) -> str:
        what = self.setting
        size = f" {what.size}x{what.size}" if what.work.endswith("resnet18") else ""
        compiled = ", compiled" if what.compile else ""
        masks = ", masks alone" if self.sparse == MASKS else ""
        return (
            f"{what.work}{size}, batch {what.batch}, {what.optimizer}{compiled}{masks}"
        )


ROWS = (
    Row(Setting("mlp", 64), 0.98),
    Row(Setting("mlp", 8), 0.92),
    Row(Setting("mlp", 64, "adamw"), 0.80),
    Row(Setting("mlp", 8, "adamw"), 0.60),
    Row(Setting("mlp", 64, "adamw", compile=True), 0.90),
    Row(Setting("torchvision:resnet18", 16, image_size=64), 1.00),
    Row(Setting("torchvision:resnet18", 16, image_size=64, compile=True), 1.00),
    Row(Setting("mlp", 64), 0.98, MASKS),
    Row(Setting("mlp", 8), 0.92, MASKS),
    Row(Setting("resnet20", 128), 1.00),
    Row(Setting("vit_tiny_patch16_224", 8), 1.00),
)
EVENT = "prune event"

HEAD = """# Training steps

Steps of Sign-In's training at 90 % zeros over steps of dense training (1.00), measured in one run: `full` keeps
factors, gradients and optimizer state for all weights, as every version before living storage did, `living` for the
entries that the mask keeps, and `kernels` are those after `sparsify_fx.accelerate`, which rounds otherwise; the papers'
listing is the same by `torch.nn.utils.parametrize`. Medians of processor time of one thread; every round takes one step
of each. `dense again` is noise. `faster than full` is the fastest of ours. {rounds} rounds.

{steps}

`first step` of a compiled model includes compiling, without any cache: wall seconds, dense and living.

## Masks alone

The same for methods whose weights have no factors, beside Sign-In; lrr is at its last sparsity.

{masks}

## A prune event

{event}

Made with `python -m benchmarks.training_step`; all samples are in [the raw results](training_step.json). {machine}
"""


def measured(row: Row, rounds: int) -> dict[str, Any]:
    """One row of the results."""
    cases = []
    for name in row.sparse:
        method, _, storage = name.partition(" ")
        cases.append(sparse_case(row.setting, method, SPARSITY, storage))
    if row.sparse == SIGNIN:
        cases.insert(0, naive_case(row.setting, SPARSITY))
        if not row.setting.compile:
            cases.append(accelerated_case(row.setting))
    costs = compare(row.setting, cases, rounds, memory=False)
    dense = costs[DENSE].median
    return {
        "setting": asdict(row.setting),
        "wanted": row.wanted,
        "rounds": rounds,
        "surroundings": surroundings(),
        "of_dense": {name: cost.median / dense for name, cost in costs.items()},
        "cases": {name: cost.to_dict() for name, cost in costs.items()},
    }


def accelerated_case(setting: Setting) -> Case:
    """Living storage, by sparse kernels where they are faster."""
    living = sparse_case(setting, "signin", SPARSITY, "living")
    inputs, _ = setting.data()
    return Case(KERNELS, lambda: sparsify_fx.accelerate(living.build(), inputs))


def prune_events() -> dict[str, Any]:
    """All mask updates of lrr over the weights of ResNet-50, in full and in living storage, in turn."""
    setting = Setting("torchvision:resnet50", 2, "adamw", image_size=64)
    trainees = []
    for storage in ("full", "living"):
        case = sparse_case(setting, "lrr", SPARSITY, storage)
        trainees.append(Trainee(case, setting))
        # The state of the optimizer moves with the entries, so it has to be there.
        trainees[-1].step()
    seconds = through_schedules(trainees, clock_of(setting.device))
    weights = sum(p.numel() for p in setting.model().parameters())
    return {
        "weights": weights,
        "setting": asdict(setting),
        "surroundings": surroundings(),
        "seconds": seconds,
    }


def page(results: dict[str, Any]) -> str:
    """The page of these results."""
    rows = {row.name: row for row in ROWS if row.name in results}
    steps = [
        (
            "training", "dense ms", "papers' listing", "full", "living", "kernels", "dense again", "wanted",
            "faster than full", "first step", "recompiles",
        )
    ]  # fmt: skip
    masks = [("training", *MASKS, "dense again", "wanted")]
    for name, row in rows.items():
        found = results[name]
        ratios, cases = found["of_dense"], found["cases"]
        last = (f"{ratios[AGAIN]:.2f}", f"{row.wanted:.2f}")
        if row.sparse == MASKS:
            masks.append((name, *(f"{ratios[each]:.2f}" for each in MASKS), *last))
            continue
        full, living = (ratios[each] for each in SIGNIN)
        dense = 1e3 * statistics.median(cases[DENSE]["steps_seconds"])
        fastest = min(living, ratios.get(KERNELS, living))
        ends = [f"{full / fastest:.2f}x", "", ""]
        if row.setting.compile:
            first = [cases[c]["first_step_seconds"] for c in (DENSE, SIGNIN[1])]
            ends[1] = f"{first[0]:.0f} s, {first[1]:.0f} s"
            ends[2] = str(cases[SIGNIN[1]]["recompiles"])
        kernels = f"{ratios[KERNELS]:.2f}" if KERNELS in ratios else ""
        middle = (f"{ratios[NAIVE]:.2f}", f"{full:.2f}", f"{living:.2f}", kernels)
        steps.append((name, f"{dense:.1f}", *middle, *last, *ends))
    rounds = sorted({results[name]["rounds"] for name in rows})
    where = next((results[name]["surroundings"] for name in rows), surroundings())
    return HEAD.format(
        steps=table(*steps),
        rounds=" or ".join(map(str, rounds)),
        masks=table(*masks),
        event=_event(results.get(EVENT)),
        machine=machine(where),
    )


def _event(found: dict[str, Any] | None) -> str:
    if found is None:
        return "Not measured yet."
    medians = {name: statistics.median(each) for name, each in found["seconds"].items()}
    most = {name: max(each) for name, each in found["seconds"].items()}
    count = len(next(iter(found["seconds"].values())))
    text = "; ".join(
        f"{name}: {medians[name]:.2f} s (at most {most[name]:.2f} s)"
        for name in medians
    )
    weights = f"{found['weights'] / 1e6:.1f} million weights"
    return (
        f"ResNet-50, {weights}, AdamW, lrr with one threshold over all layers, from dense to 90 % zeros in {count} "
        "events. The step of the Scheduler with all that belongs to the event: scores, threshold, masks, entries and "
        f"optimizer state that move, the optimizer's rewind. Median processor time of {text}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument(
        "--only", default="", help="rows whose name has this text; the others stay"
    )
    parser.add_argument("--page", action="store_true", help="measure nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    results = read(NAME)
    for row in ROWS:
        if options.page or options.only not in row.name:
            continue
        results[row.name] = measured(row, options.rounds)
        ratios = results[row.name]["of_dense"]
        shown = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
        print(f"{row.name}: {shown}", flush=True)
        # After every row: what is there is kept when the rest is interrupted.
        write(NAME, results, page(results))
    if not options.page and options.only in EVENT:
        results[EVENT] = prune_events()
        print(_event(results[EVENT]))
    write(NAME, results, page(results))


if __name__ == "__main__":
    main()
