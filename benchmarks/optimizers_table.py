"""Every optimizer of six libraries under pruning: the tables in docs/optimizers.md.

    python -m benchmarks.optimizers_table                            # about ten minutes on one core
    python -m benchmarks.optimizers_table --column storage           # one column; the others stay as they were measured
    python -m benchmarks.optimizers_table --only timm.adam torch.    # names that contain one of these, to the terminal

What is measured is said in the page's head. Raw results: docs/results/optimizers.json.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import io
import json
import logging
import random
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsify_fx
from benchmarks.optimizer_cases import LIBRARIES, Case, batch, cases, net, trained
from sparsify_fx.errors import SparsifyError, SparsifyWarning
from sparsify_fx.optimizer_states import (
    clear_entries,
    restore_optimizer_state,
    take_optimizer_state,
)
from sparsify_fx.optimizer_states.counters import counters
from sparsify_fx.optimizer_states.holders import holders, places, walk
from sparsify_fx.programs.owners import programs

EPOCHS, STEPS = 4, 3
COLUMNS = ("zeros", "fresh", "resume", "rewind", "storage")
DOCS = Path(__file__).parents[1] / "docs"
EXPLAINED = {
    "bcos": "momentum starts as a copy of the first gradient, that of a regrown weight at 0",
    "tam": "momentum starts as a copy of the first gradient, that of a regrown weight at 0",
    "adan": "keeps the previous gradient; that of a regrown weight is 0, so its first difference is the gradient",
    "dadaptadan": "keeps the previous gradient; that of a regrown weight is 0, so its first difference is the gradient",
    "gravity": "starts from random numbers, which are drawn again",
    "asgd": "changes its learning rate by itself, which a rewind leaves alone",
    "magma": "keeps one average for a whole tensor, which is no entry's and stays",
    "adahessian": "its source of random numbers is not in its state dict, and draws as many as there are entries",
    "sara": "selects entries by their size when it is built, and keeps the selection",
}
HEAD = """# Optimizers

What each optimizer does under pruning, measured by `python -m benchmarks.optimizers_table` with {versions}.
The net has two hidden layers; `set` prunes it to 80 % zeros and moves 30 % of the weights every three steps.

{count} optimizers were tried. {works} can train here: {zeros} of them keep all zeros, in {fresh} a regrown weight
moves like a fresh one ({shared} more share state between weights), {resume} resume and {rewind} rewind to the same
bits. {refused} are refused; {not_run} need a GPU or a package that is not there.

| column | yes means |
|---|---|
| zeros kept | after every step pruned entries are exactly 0, in the layer and in the factor that is trained |
| regrown like fresh | see below |
| resume equal | saved in the middle and loaded into new objects, it ends with the bits of a training that went on |
| rewind equal | brought back to an earlier step through a file, the same batches give the same bits again |
| storage | see below |

**Regrown like fresh.** Two things have to hold. When the Scheduler brings weights back, the optimizer's state at these
entries is what clearing makes of it: clearing it again changes nothing. And cleared state is that of a new parameter:
after clearing all entries and setting the counters (steps, products of decay rates: everything without an axis) to
their start, the next update of all weights equals the first update of a new optimizer over the same weights and
gradients, to a relative 1e-5. In a training the counters stay where they are, for they belong to all entries: under
Adam a regrown weight has no momentum, and the bias correction of the step that the training is at. *shared* says that
state belongs to rows, blocks or whole matrices, so that a weight that comes back meets that of its neighbors; the
Scheduler warns of it once. *no* has its reason in the notes.

**Storage.** What `storage="auto"` takes for this optimizer under masks that stay, see [storage](storage.md): *living*
entries alone for {living} of them, *full* for those that need whole weights. Each was trained in both, and the weights
are equal to a relative 1e-4 in float64; *no* says that they are not.

Optimizers that move weights without a gradient (Muon, Shampoo, ...) are noticed when the Scheduler is built; it puts
pruned entries back to zero after every step. Copies of the weights in the state (schedule-free's z, Lookahead's slow
weights) follow what the Scheduler writes. Counters in groups (schedule-free's k, D-adaptation's d) are rewound with
the state; learning rates are not.

`Scheduler` refuses, before anything is written, what it cannot keep right: optimizers that train copies of the weights
elsewhere (CPU offload, float32 master copies), that update within backward (LOMO), or whose quantized state has an
unknown layout.

"""


class Run:
    """A model, its optimizers and a Scheduler."""

    def __init__(self, case: Case) -> None:
        self.case, self.model = case, net()
        sparsify_fx.apply(self.model, "set", sparsity=0.8)
        self.optimizers = case.build(self.model)
        for optimizer in self.optimizers:
            switch(optimizer, "train")
        self.scheduler = sparsify_fx.Scheduler(
            self.model,
            self.optimizers,
            epochs=EPOCHS,
            steps_per_epoch=STEPS,
            learning_rate=None,
        )

    def step(self, number: int) -> None:
        """One optimizer step on the batch of that number."""
        optimizer_step(self.case, self.model, self.optimizers, number)

    def train(self, first: int, last: int) -> None:
        """Steps `first` to `last` - 1 of the schedule."""
        for number in range(first, last):
            self.step(number)
            self.scheduler.step()


def switch(optimizer: Any, mode: str) -> None:
    """Schedule-free optimizers have a training mode."""
    if hasattr(optimizer, mode):
        getattr(optimizer, mode)()


def optimizer_step(
    case: Case, model: nn.Module, optimizers: list[Any], number: int
) -> None:
    """Forward, backward and one step of all optimizers."""
    inputs, labels = batch(number)
    torch.manual_seed(number)
    np.random.seed(number)  # and Python's: kron draws from all three
    random.seed(number)

    def closure() -> Tensor:
        for parameter in trained(model):
            parameter.grad = None
        with torch.enable_grad():
            loss = F.cross_entropy(model(inputs), labels)
            loss.backward(create_graph=case.graph)
        return loss

    loss = closure()
    for optimizer in optimizers:
        if case.closure:
            optimizer.step(closure)
        else:
            optimizer.step()
    if not torch.isfinite(loss):
        raise ValueError(f"the loss is {loss.item()} at step {number}")


# ------------------------------------------------------------------ the columns


def zeros(case: Case) -> str:
    """Pruned entries after every step, in the layer and in the factor."""
    run = Run(case)
    for number in range(EPOCHS * STEPS):
        run.train(number, number + 1)
        for program in programs(run.model).values():
            pruned = program.current_mask() == 0
            if (
                program()[pruned].count_nonzero()
                or program.get_parameter("dense")[pruned].count_nonzero()
            ):
                return "no"
    for optimizer in run.optimizers:
        switch(optimizer, "eval")
    sparsify_fx.merge(run.model)
    total = sum(
        layer.weight.numel() for layer in run.model if isinstance(layer, nn.Linear)
    )
    alive = sum(
        int(layer.weight.count_nonzero())
        for layer in run.model
        if isinstance(layer, nn.Linear)
    )
    return "yes" if alive <= round(0.2 * total) else "no"


def fresh(case: Case) -> str:
    """The two conditions of the page's head."""
    run = Run(case)
    run.train(0, STEPS - 1)
    run.step(STEPS - 1)
    before = {
        name: program.current_mask().clone()
        for name, program in programs(run.model).items()
    }
    run.scheduler.step()
    for name, program in programs(run.model).items():
        factor, moved = (
            program.get_parameter("dense"),
            program.current_mask() != before[name],
        )
        left = state_tensors(run, factor)
        torch.manual_seed(0)
        clear_entries(run.optimizers, factor, moved)
        if not same(left, state_tensors(run, factor)):
            return "no"
    for parameter in trained(run.model):
        clear_entries(
            run.optimizers, parameter, torch.ones_like(parameter, dtype=torch.bool)
        )
    return compare_first_updates(run)


def compare_first_updates(run: Run) -> str:
    """Against new optimizers over a copy of the model, whose counters are recorded as they are first set."""
    twin = net()
    sparsify_fx.apply(twin, "set", sparsity=0.8)
    twin.load_state_dict(run.model.state_dict())
    others = run.case.build(twin)
    pairs = list(zip(trained(run.model), trained(twin), strict=True))
    starts = [
        start_of(mine, other)
        for mine, other in zip(run.optimizers, others, strict=True)
    ]
    records = record_states(others, dict(pairs))
    for optimizer in others:
        switch(optimizer, "train")
    optimizer_step(run.case, twin, others, 50)
    for start in starts:
        start()
    for parameter, recorded in records:
        for place in places(run.optimizers, parameter):
            for key, value in recorded.items():
                if key in place.state and is_counter(value):
                    place.state[key] = (
                        value.clone() if isinstance(value, Tensor) else value
                    )
    run.step(50)
    alike = [torch.allclose(mine, other, rtol=1e-5, atol=1e-7) for mine, other in pairs]
    return "yes" if all(alike) else "no"


class FirstValues(dict):  # type: ignore[type-arg]
    """A state that remembers every number as it was first set."""

    def __init__(self, known: Any) -> None:
        super().__init__(known)
        self.first: dict[Any, Any] = {}
        for key, value in known.items():
            self[key] = value

    def __setitem__(self, key: Any, value: Any) -> None:
        if is_counter(value):
            self.first.setdefault(
                key, value.clone() if isinstance(value, Tensor) else value
            )
        super().__setitem__(key, value)


def record_states(
    optimizers: list[Any], pairs: dict[nn.Parameter, nn.Parameter]
) -> list[tuple[nn.Parameter, Any]]:
    records = []
    for optimizer in optimizers:
        for holder in holders(optimizer):
            for mine, other in pairs.items():
                if any(
                    other is p for group in holder.param_groups for p in group["params"]
                ):
                    values = FirstValues(holder.state.get(other, {}))
                    holder.state[other] = values
                    records.append((mine, values.first))
    return records


def start_of(mine: Any, other: Any) -> Callable[[], None]:
    """A function that gives `mine` the counters that a new optimizer has in its groups, attributes and own state."""
    layers = list(zip(holders(mine), holders(other), strict=True))
    groups = [copy.deepcopy([{key: group[key] for key in counters(new, group)} for group in new.param_groups])
              for _, new in layers]  # fmt: skip
    kinds = (int, float, torch.Generator)
    numbers = [
        {
            k: v
            for k, v in vars(new).items()
            if isinstance(v, kinds) and k[0] != "_" and k != "train_mode"
        }
        for _, new in layers
    ]
    numbers = [
        {
            k: v.clone_state() if isinstance(v, torch.Generator) else v
            for k, v in n.items()
        }
        for n in numbers
    ]
    entries = [
        copy.deepcopy({k: v for k, v in new.state.items() if isinstance(k, str)})
        for _, new in layers
    ]

    def start() -> None:
        for (here, _), starts, values, own in zip(
            layers, groups, numbers, entries, strict=True
        ):
            for group, first in zip(here.param_groups, starts, strict=True):
                for key in [key for key in counters(here, group) if key not in first]:
                    group.pop(key)
                group.update(first)
            vars(here).update(values)
            for key in [key for key in here.state if isinstance(key, str)]:
                if key in own:
                    here.state[key] = own[key]
                elif not any(
                    isinstance(inner, nn.Parameter) for inner in here.state[key]
                ):
                    del here.state[key]

    return start


def is_counter(value: Any) -> bool:
    return isinstance(value, (bool, int, float)) or (
        isinstance(value, Tensor) and value.numel() == 1
    )


def resume(case: Case) -> str:
    """Saved in the middle and loaded into new objects, against a training that goes on."""
    run, middle = Run(case), 2 * STEPS - 1
    run.train(0, middle)
    file = io.BytesIO()
    torch.save([run.model.state_dict(), [o.state_dict() for o in run.optimizers]], file)
    schedule = io.BytesIO()
    torch.save(run.scheduler.state_dict(), schedule)
    run.train(middle, 2 * STEPS + 1)
    file.seek(0), schedule.seek(0)
    model, states = torch.load(file, weights_only=False)
    again = Run(case)
    again.model.load_state_dict(model)
    for optimizer, state in zip(again.optimizers, states, strict=True):
        optimizer.load_state_dict(state)
        switch(optimizer, "train")
    again.scheduler.load_state_dict(torch.load(schedule, weights_only=True))
    again.train(middle, 2 * STEPS + 1)
    return "yes" if equal(run.model, again.model) else "no"


def rewind(case: Case) -> str:
    """Three steps, back through a file, and the same three steps."""
    run = Run(case)
    for number in range(3):
        run.step(number)
    parameters = trained(run.model)
    weights = [parameter.detach().clone() for parameter in parameters]
    file = io.BytesIO()
    torch.save(take_optimizer_state(run.optimizers, parameters), file)
    ends = []
    for _ in range(2):
        for number in range(3, 6):
            run.step(number)
        ends.append([parameter.detach().clone() for parameter in parameters])
        file.seek(0)
        with torch.no_grad():
            for parameter, weight in zip(parameters, weights, strict=True):
                parameter.copy_(weight)
        restore_optimizer_state(
            run.optimizers, parameters, torch.load(file, weights_only=True)
        )
    return (
        "yes"
        if all(torch.equal(one, two) for one, two in zip(*ends, strict=True))
        else "no"
    )


def storage(case: Case) -> str:
    """Where the weights of fixed masks lie under `storage="auto"`; "no" where that trains other weights."""
    ends, lies = [], set[str]()
    for chosen in ("auto", "full"):
        # In float64: line searches and quotients of differences make much of a last bit.
        model = net().double()
        model.register_forward_pre_hook(lambda _, given: (given[0].double(),))
        sparsify_fx.apply(model, "random", sparsity=0.8, storage=chosen)
        optimizers = case.build(model)
        sparsify_fx.Scheduler(
            model, optimizers, epochs=1, steps_per_epoch=STEPS, learning_rate=None
        )
        for optimizer in optimizers:
            switch(optimizer, "train")
        for number in range(STEPS):
            optimizer_step(case, model, optimizers, number)
        if chosen == "auto":
            lies = {
                "full" if program.places() is None else "living"
                for program in programs(model).values()
            }
        ends.append([program.effective() for program in programs(model).values()])
    for one, two in zip(*ends, strict=True):
        if not torch.allclose(one, two, rtol=1e-4, atol=1e-6):
            return "no"
    return " and ".join(sorted(lies))


def equal(one: nn.Module, two: nn.Module) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in zip(one.parameters(), two.parameters(), strict=True)
    )


def state_tensors(run: Run, parameter: nn.Parameter) -> list[Tensor]:
    found = [
        t for place in places(run.optimizers, parameter) for _, t in walk(place.state)
    ]
    own = [type(tensor).dequantize is not Tensor.dequantize for tensor in found]
    return [
        (t.dequantize() if q else t).clone() for t, q in zip(found, own, strict=True)
    ]


def same(one: list[Tensor], two: list[Tensor]) -> bool:
    return all(
        torch.allclose(a.float(), b.float(), equal_nan=True)
        for a, b in zip(one, two, strict=True)
    )


# ------------------------------------------------------------------ the table


def examine(
    case: Case,
    columns: tuple[str, ...] = COLUMNS,
    known: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """One row: its columns, and what was said on the way.

    Args:
        known: the row as it was measured before, of which the other columns stay.
    """
    row: dict[str, Any] = known or {"name": case.name, "notes": []}
    if known is not None and known["zeros"] not in ("yes", "no"):
        return row | dict.fromkeys(columns, "")
    for column in columns:
        with (
            warnings.catch_warnings(record=True) as caught,
            redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("always")
            try:
                row[column] = globals()[column](case)
            except SparsifyError as error:
                row[column] = "refused"
                row["notes"].append(f"{type(error).__name__}: {error}")
            except Exception as error:
                missing = isinstance(error, ImportError) or "CUDA required" in str(
                    error
                )
                row[column] = "not run" if missing else "fails"
                row["notes"].append(
                    f"{column}: {type(error).__name__}: {' '.join(str(error).split())}"
                )
        told = [
            str(w.message) for w in caught if issubclass(w.category, SparsifyWarning)
        ]
        row["notes"] += [text for text in told if text not in row["notes"]]
        if column == "fresh" and any("neighbors" in text for text in row["notes"]):
            row[column] = "shared"
        if column == "zeros" and row[column] in ("refused", "fails", "not run"):
            return row | {other: "" for other in COLUMNS if other != "zeros"}
    if "no" in (row[column] for column in COLUMNS):
        row["notes"] = [EXPLAINED.get(case.name.rpartition(".")[2], "")] + row["notes"]
    return row


def page(rows: list[dict[str, Any]]) -> str:
    """docs/optimizers.md."""
    works = [row for row in rows if row["zeros"] in ("yes", "no")]
    counts = {column: sum(row[column] == "yes" for row in works) for column in COLUMNS}
    packages = (
        "torch",
        "timm",
        "schedulefree",
        "pytorch_optimizer",
        "torchao",
        "transformers",
    )
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name).partition('+')[0]}"
        for name in packages
    )
    counts |= {
        kind: sum(row["zeros"] == kind for row in rows)
        for kind in ("refused", "not run")
    }
    counts["living"] = sum(row["storage"] == "living" for row in works)
    counts["shared"] = sum(row["fresh"] == "shared" for row in works)
    facts = {key.replace(" ", "_"): number for key, number in counts.items()}
    lines = [HEAD.format(versions=versions, count=len(rows), works=len(works), **facts)]
    for library in LIBRARIES:
        lines += [
            f"## {library}\n",
            "| optimizer | zeros kept | regrown like fresh | resume equal | rewind equal | storage | notes |",
        ]
        lines.append("|---|---|---|---|---|---|---|")
        for row in rows:
            if row["name"].startswith(f"{library}."):
                cells = [
                    row["name"].removeprefix(f"{library}."),
                    *(row[column] for column in COLUMNS),
                    note(row),
                ]
                lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def note(row: dict[str, Any]) -> str:
    """The first note, short enough for a cell."""
    text = next((text for text in row["notes"] if text), "").replace("|", "/")
    return text if len(text) <= 150 else text[:147] + "..."


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--libraries", nargs="+", default=list(LIBRARIES), choices=list(LIBRARIES)
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=None,
        help="parts of names; nothing is written then",
    )
    parser.add_argument(
        "--column", choices=COLUMNS, help="measure this one, keep the others"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    # torchao's and kron's steps would be compiled first; eager ones do the same arithmetic.
    torch.compiler.set_stance("force_eager")
    # distributedmuon wants a group, of one process here.
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    results = DOCS / "results" / "optimizers.json"
    columns: tuple[str, ...] = COLUMNS
    before: dict[str, Any] = {}
    if args.column is not None:
        columns = (args.column,)
        before = {row["name"]: row for row in json.loads(results.read_text())}
    rows = []
    for case in cases(tuple(args.libraries)):
        if args.only is None or any(part in case.name for part in args.only):
            row = examine(case, columns, before.get(case.name))
            rows.append(row)
            print(
                f"{row['name']:38}",
                *(f"{row[column]:8}" for column in COLUMNS),
                note(row),
                flush=True,
            )
    if args.only is None:
        results.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        (DOCS / "optimizers.md").write_text(page(rows), encoding="utf-8")
        print(f"written: {DOCS / 'optimizers.md'}, {results}")


if __name__ == "__main__":
    main()
