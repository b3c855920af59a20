"""A slice of `python -m benchmarks.optimizers_table`: the same checks, on optimizers that differ in kind."""

from __future__ import annotations

import pytest
import torch

from benchmarks.optimizer_cases import Case, cases
from benchmarks.optimizers_table import COLUMNS, examine

pytestmark = pytest.mark.slow

SHARED = {"torch.Adafactor"}
# What shares state between entries, mixes them, or keeps it in blocks.
FULL = {
    "torch.Adafactor",
    "torch.Muon",
    "timm.muon",
    "pytorch_optimizer.adai",
    "pytorch_optimizer.flashadamw",
    "pytorch_optimizer.muon",
    "torchao.AdamW8bit",
}
REFUSED = {"torch.SparseAdam"}
OTHERS = {
    "timm": (
        "timm.rmsproptf",
        "timm.madgrad",
        "timm.lamb",
        "timm.muon",
        "timm.lookahead_adamw",
        "timm.lion",
    ),
    "schedulefree": (
        "schedulefree.AdamWScheduleFree",
        "schedulefree.ScheduleFreeWrapper",
    ),
    "pytorch_optimizer": (
        *(
            "pytorch_optimizer.adai",
            "pytorch_optimizer.prodigy",
            "pytorch_optimizer.lookahead",
            "pytorch_optimizer.trac",
        ),
        *(
            "pytorch_optimizer.spam",
            "pytorch_optimizer.flashadamw",
            "pytorch_optimizer.muon",
        ),
    ),
    "torchao": ("torchao.AdamW8bit",),
}
CASES = [
    *cases(("torch",)),
    *(
        case
        for library, names in OTHERS.items()
        for case in cases((library,))
        if case.name in names
    ),
]


def test_all_of_them_are_there() -> None:
    assert {name for names in OTHERS.values() for name in names} <= {
        case.name for case in CASES
    }
    assert sum(case.name.startswith("torch.") for case in CASES) >= 15


@pytest.mark.cross_section(
    "torch.Adafactor",
    "torch.Adadelta",
    "torch.Adam",
    "torch.AdamW",
    "torch.LBFGS",
    "torch.RAdam",
    "torch.Rprop",
    "torch.SparseAdam",
    "timm.lion",
    "timm.muon",
    "timm.lookahead_adamw",
    "schedulefree.ScheduleFreeWrapper",
    "pytorch_optimizer.flashadamw",
    "pytorch_optimizer.prodigy",
    "pytorch_optimizer.lookahead",
)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_zeros_are_kept_and_state_is_fresh_resumed_and_rewound(case: Case) -> None:
    with torch.compiler.set_stance("force_eager"):
        row = examine(case)
    if case.name in REFUSED:
        assert row["zeros"] == "refused"
        return
    storage = row.pop("storage")
    assert storage == ("full" if case.name in FULL else "living"), row["notes"]
    expected = dict.fromkeys(COLUMNS[:-1], "yes") | (
        {"fresh": "shared"} if case.name in SHARED else {}
    )
    assert {column: row[column] for column in COLUMNS[:-1]} == expected, row["notes"]
