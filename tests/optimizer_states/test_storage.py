"""Optimizers and the storage of weights: state of the other one, lengths of another run, and who is asked when."""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle
from typing import Any

import pytest
import timm.optim
import torch
from torch import nn

import sparsify_fx
from sparsify_fx.errors import SchedulerError
from sparsify_fx.living.remembered import Remembered
from sparsify_fx.optimizer_states.elementwise import elementwise
from sparsify_fx.optimizer_states.refit import fit_states
from sparsify_fx.programs.owners import programs
from tests.conftest import batch, effective, small_net, train_step


def prepared(storage: str, method: str = "signin") -> nn.Module:
    return sparsify_fx.apply(small_net(), method, sparsity=0.8, storage=storage)


def trained(model: nn.Module, optimizer: Any, steps: int = 3, start: int = 0) -> None:
    for step in range(start, start + steps):
        train_step(model, optimizer, step)


@pytest.mark.parametrize(("first", "second"), [("full", "living"), ("living", "full")])
@pytest.mark.parametrize("late", [False, True])
def test_state_of_the_other_storage_is_taken_over(
    first: str, second: str, late: bool
) -> None:
    """Optimizers load any shapes, and would fail in their next step. `late`: into one that has made steps."""
    one, other = prepared(first), prepared(second)
    optimizers = [torch.optim.AdamW(m.parameters(), lr=0.01) for m in (one, other)]
    for model, optimizer in zip((one, other), optimizers, strict=True):
        sparsify_fx.Scheduler(model, optimizer, epochs=2, steps_per_epoch=9)
    trained(one, optimizers[0])
    if late:
        trained(other, optimizers[1], start=7)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    for model, optimizer in zip((one, other), optimizers, strict=True):
        trained(model, optimizer, start=3)
    for name, weight in effective(one).items():
        torch.testing.assert_close(effective(other)[name], weight, rtol=1e-4, atol=1e-6)


def test_vectors_of_another_length_are_cut_and_filled() -> None:
    """Several processes keep room behind living entries; one does not."""
    model = prepared("living")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    trained(model, optimizer)
    factor = programs(model)["0.weight"].get_parameter("w")
    known = optimizer.state[factor]["momentum_buffer"]
    optimizer.state[factor]["momentum_buffer"] = torch.cat([known, 0 * known[:5]])
    fit_states([optimizer], programs(model)["0.weight"])
    assert torch.equal(optimizer.state[factor]["momentum_buffer"], known)


@pytest.mark.parametrize("copied", ["deepcopy", "pickle"])
def test_copies_are_known_to_optimizers_too(copied: str) -> None:
    """Without care a copy of a model would be trained entry by entry by an optimizer that needs matrices."""
    model = sparsify_fx.apply(nn.Linear(6, 4, bias=False), "signin", sparsity=0.5)
    stream = io.BytesIO()
    pickle.dump(model, stream)
    twin = (
        copy.deepcopy(model)
        if copied == "deepcopy"
        else pickle.loads(stream.getvalue())
    )
    assert programs(twin)["weight"].places() is not None
    optimizer = torch.optim.Muon(twin.parameters(), lr=0.1)
    before = effective(twin)["weight"]
    twin(torch.ones(2, 6)).sum().backward()
    optimizer.step()
    assert programs(twin)["weight"].places() is None
    assert programs(model)["weight"].places() is not None
    assert not torch.equal(effective(twin)["weight"], before)


def test_a_program_that_comes_after_the_first_step_is_seen() -> None:
    model = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
    sparsify_fx.apply(model[0], "signin", sparsity=0.5)
    matrices = [p for p in model[0].parameters() if p.dim() == 2]
    optimizer = torch.optim.Muon(matrices, lr=0.1)
    model[0](torch.ones(1, 6)).sum().backward()
    optimizer.step()
    sparsify_fx.apply(model[1], "signin", sparsity=0.5)
    new = [p for p in model[1].parameters() if p.dim() == 2]
    optimizer.add_param_group({"params": new})
    model[1](torch.ones(1, 6)).sum().backward()
    optimizer.step()
    assert [p.places() for p in programs(model).values()] == [None, None]


@dataclasses.dataclass
class Compared(torch.optim.Optimizer):
    """Without a hash, as every dataclass that compares its fields."""

    rate: float

    def __post_init__(self) -> None:
        self.defaults, self.state, self.param_groups = {}, {}, []

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.sub_(parameter.grad, alpha=self.rate)


def compared(parameters: list[nn.Parameter]) -> Compared:
    made = Compared(0.1)
    torch.optim.Optimizer.__init__(made, parameters, {})
    return made


def test_optimizers_without_a_hash_train() -> None:
    model = prepared("auto")
    optimizer = compared(list(model.parameters()))
    with pytest.raises(TypeError, match="unhashable"):
        hash(optimizer)
    trained(model, optimizer)
    answer = elementwise([optimizer], next(model.parameters()))
    assert (programs(model)["0.weight"].places() is not None) == answer


class Slots:
    """No subclass of torch's optimizers, no hooks, no weak references; the update is that of a whole matrix."""

    __slots__ = ("param_groups", "state")

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        self.param_groups, self.state = [{"params": list(params), "lr": lr}], {}

    def zero_grad(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    size = parameter.grad.norm() + parameter.norm()
                    parameter.sub_(parameter.grad, alpha=group["lr"] / float(size))


def test_the_scheduler_looks_at_optimizers_without_hooks() -> None:
    model = prepared("auto")
    optimizer: Any = Slots(model.parameters())
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=1, steps_per_epoch=3)
    assert [p.places() for p in programs(model).values()] == [None] * 3
    assert [row[3:] for row in scheduler.timeline().rows() if row[3] == "storage"] == [
        ("storage", "full in 3 weights: Slots needs whole weights")
    ]
    living = prepared("living")
    optimizer = Slots(living.parameters())
    with pytest.raises(SchedulerError, match="Slots does not treat each entry"):
        sparsify_fx.Scheduler(living, optimizer, epochs=1, steps_per_epoch=3)


def test_the_timeline_tells_the_storage() -> None:
    model = prepared("auto")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=1, steps_per_epoch=3)
    told = [row[4] for row in scheduler.timeline().rows() if row[3] == "storage"]
    assert told == ["living entries alone, 158 of 792 in 3 weights"]
    plain = prepared("full")
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.01)
    scheduler = sparsify_fx.Scheduler(plain, optimizer, epochs=1, steps_per_epoch=3)
    assert "storage" not in {row[3] for row in scheduler.timeline().rows()}


def test_what_is_remembered_goes_with_its_object() -> None:
    table, key = Remembered[str](), nn.Linear(1, 1)
    table.put(key, "known")
    assert table.get(key) == "known"
    table.forget(key)
    assert table.get(key) is None
    table.put(key, "again")
    number = id(key)
    del key
    assert number not in table._values
    table.put(Slots([torch.ones(1)]), "never")
    assert not table._values


ENTRY_BY_ENTRY = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-2),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-3),
    "foreach": lambda p: torch.optim.Adam(p, lr=1e-3, foreach=True),
    "timm lion": lambda p: timm.optim.Lion(p, lr=1e-4, weight_decay=0.1),
    "timm lamb without decay": lambda p: timm.optim.Lamb(p, lr=1e-3, weight_decay=0.0),
}
WHOLE = {
    "Muon": lambda p: torch.optim.Muon(p, lr=0.1),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.1),
    # Factors its moments from 16 entries a side on.
    "big vision's adafactor": lambda p: timm.optim.AdafactorBigVision(p, lr=0.1),
    # Looks whether gradients are orthogonal to rows.
    "AdamP": lambda p: timm.optim.AdamP(p, lr=0.1),
    # Its trust ratio is for decayed weights.
    "timm lamb": lambda p: timm.optim.Lamb(p, lr=1e-3, weight_decay=0.1),
}


@pytest.mark.parametrize("name", [*ENTRY_BY_ENTRY, *WHOLE])
def test_which_optimizers_treat_each_entry_by_itself(name: str) -> None:
    parameter = nn.Parameter(torch.ones(4, 4))
    optimizer = {**ENTRY_BY_ENTRY, **WHOLE}[name]([parameter])
    assert elementwise([optimizer], parameter) == (name in ENTRY_BY_ENTRY)


@pytest.mark.slow
def test_a_compiled_optimizer_step_is_not_compiled_again() -> None:
    """Without care the look at the optimizer would be a part of what is compiled, and fail; it is beside the graph."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    model = prepared("auto")
    optimizer = torch.optim.AdamW(model.parameters(), lr=torch.tensor(1e-3))
    scheduler = sparsify_fx.Scheduler(
        model, optimizer, epochs=2, steps_per_epoch=3, learning_rate=None
    )
    step = torch.compile(lambda: optimizer.step(), backend="eager")
    graphs = []
    while not scheduler.finished:
        train_gradients(model, scheduler.step_count)
        step()
        scheduler.step()
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert len(set(graphs[1:])) == 1, graphs
    assert all(p.places() is not None for p in programs(model).values())


def train_gradients(model: nn.Module, seed: int) -> None:
    model.zero_grad()
    inputs, labels = batch(seed)
    nn.functional.cross_entropy(model(inputs), labels).backward()
