"""Rewinds on real digits: after each one, weights, batch norm and optimizer state equal independent copies.

The copies are deep copies of model and optimizer, taken by the test at the rewind point, apart from the library's
snapshots.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.errors import MethodError
from sparsify_fx.learning_rate import CosineWarmup
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.program import WeightProgram
from sparsify_fx.rewinds import Rewind
from sparsify_fx.zoo.data import load_data
from sparsify_fx.zoo.models import build_model
from tests.conftest import effective, small_net, train_step, ulp_distance

pytestmark = pytest.mark.slow

EPOCHS, STEPS, WARMUP = 2, 5, 1
SPARSITY = 1 - 0.8**3


def states_of(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, dict[str, torch.Tensor]]:
    """The optimizer's tensors by parameter name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(p)]: {k: v for k, v in s.items() if v is not None}
        for p, s in optimizer.state.items()
    }


@pytest.mark.cross_section("wr")
@pytest.mark.parametrize(
    "method", ["imp", "wr", "lrr", "lrr-bn", "signin+wr", "lrr+signin"]
)
def test_each_cycle_starts_from_what_the_method_says(method: str) -> None:
    torch.manual_seed(0)
    data = load_data("mnist5k")
    model = build_model("lenet5-bn", num_classes=10, in_channels=1, image_size=28)
    sparsify_fx.apply(model, method, sparsity=SPARSITY, actions=())
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3
    )
    copies = {0: (copy.deepcopy(model), {})}
    scheduler = sparsify_fx.Scheduler(
        model,
        optimizer,
        epochs=EPOCHS,
        steps_per_epoch=STEPS,
        learning_rate=CosineWarmup(WARMUP),
    )
    batches = [
        batch
        for epoch in range(4)
        for batch in data.epoch(128, train=True, epoch=epoch)
    ]
    while not scheduler.finished:
        inputs, labels = batches[scheduler.step_count]
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        before = copy.deepcopy(model), copy.deepcopy(states_of(model, optimizer))
        if scheduler.step_count + 1 == WARMUP * STEPS:
            copies[WARMUP] = before
        starts_run = scheduler.ends_run
        scheduler.step()
        if starts_run and not scheduler.finished:
            check(method, model, states_of(model, optimizer), copies, before)
    assert scheduler.nonzeros() == round(0.8**3 * scheduler.total_weights)


def check(
    method: str,
    model: nn.Module,
    state: dict[str, dict[str, torch.Tensor]],
    copies: dict[int, tuple[nn.Module, dict[str, dict[str, torch.Tensor]]]],
    before: tuple[nn.Module, dict[str, dict[str, torch.Tensor]]],
) -> None:
    rewinds_to = {"imp": 0, "wr": WARMUP, "signin+wr": WARMUP}.get(method)
    start = before[0] if rewinds_to is None else copies[rewinds_to][0]
    masks = {name: program.current_mask() for name, program in programs(model).items()}
    assert any((mask == 0).any() for mask in masks.values())

    for name, weight in effective(model).items():
        theta = programs(start)[name].theta()
        assert torch.equal(weight, theta * masks[name]), f"{method}: {name}"
    norms = copies[WARMUP][0] if method == "lrr-bn" else start
    program_names = [f"{name}_program" for name in masks]
    for key, value in model.state_dict().items():
        if any(key.startswith(program) for program in program_names):
            continue
        is_norm = isinstance(
            model.get_submodule(key.rpartition(".")[0]), nn.modules.batchnorm._BatchNorm
        )
        assert torch.equal(value, (norms if is_norm else start).state_dict()[key]), (
            f"{method}: {key}"
        )

    if rewinds_to != WARMUP:
        assert not state, "a fresh optimizer"
        return
    recorded = copies[WARMUP][1]
    assert set(state) == set(recorded)
    for key, values in recorded.items():
        layer = next(
            (name for name in masks if key.startswith(f"{name}_program")), None
        )
        for field, value in values.items():
            expected = value if layer is None else value * masks[layer]
            assert torch.equal(state[key][field], expected), (
                f"{method}: {field} of {key}"
            )
            assert value.any(), "a comparison of zeros would show nothing"


def halves(program: WeightProgram) -> tuple[torch.Tensor, torch.Tensor]:
    return program.theta().sign(), program.theta().abs()


@pytest.mark.parametrize("parameterization", ["dense", "product"])
@pytest.mark.parametrize(
    ("part", "point", "at"),
    [
        ("signs", "init", 0),
        ("signs", "warmup", 2),
        ("magnitudes", 1, 2),
        ("magnitudes", 2, 4),
    ],
)
def test_signs_or_magnitudes_alone_go_back(
    parameterization: str, part: str, point: str | int, at: int
) -> None:
    model = sparsify_fx.apply(
        small_net(),
        "lrr",
        sparsity=0.36,
        parameterization=parameterization,
        rewind={part: point, "optimizer": "init"},
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    scheduler = sparsify_fx.Scheduler(
        model,
        optimizer,
        epochs=3,
        steps_per_epoch=2,
        learning_rate=CosineWarmup(warmup=1),
    )
    copies, checked = {0: copy.deepcopy(model)}, 0
    while not scheduler.finished:
        train_step(model, optimizer, scheduler.step_count)
        if scheduler.step_count == 0:
            with torch.no_grad():  # a sign that is lost: θ = 0 at the recorded point
                zero_first(programs(model)["7.weight"])
        before, starts_run = copy.deepcopy(model), scheduler.ends_run
        copies[scheduler.step_count + 1] = before
        scheduler.step()
        if starts_run and not scheduler.finished:
            compare(part, model, copies[at], before)
            checked += 1
    assert checked == 2


def zero_first(program: WeightProgram) -> None:
    where = torch.zeros_like(program.theta(), dtype=torch.bool)
    where.view(-1)[0] = True
    program.write(torch.zeros_like(program.theta()), where=where)


def compare(part: str, model: nn.Module, then: nn.Module, before: nn.Module) -> None:
    flips = 0
    for name, program in programs(model).items():
        old_signs, old_sizes = halves(programs(then)[name])
        signs, sizes = halves(programs(before)[name])
        mask = program.current_mask()
        expected = torch.where(old_signs == 0, signs, old_signs) * sizes
        if part == "magnitudes":
            expected = torch.where(signs == 0, old_signs, signs) * old_sizes
        assert (
            ulp_distance(program.theta()[mask == 1], expected[mask == 1]) <= 2
        ).all()
        assert not effective(model)[name][mask == 0].any()
        flips += int((old_signs * signs < 0).sum())
    assert flips, "nothing would show"
    assert torch.equal(
        model[0].weight != 0, programs(model)["0.weight"].current_mask() == 1
    )
    for key in ("7.bias", "1.weight", "1.running_mean"):
        assert torch.equal(model.state_dict()[key], before.state_dict()[key]), (
            "only the prunable weights go back"
        )


@pytest.mark.parametrize(
    "halves", [{"signs": "init"}, {"magnitudes": 1}, {"signs": 0, "magnitudes": 0}]
)
def test_weights_exclude_signs_and_magnitudes(halves: dict[str, object]) -> None:
    with pytest.raises(
        MethodError, match="weights bring signs and magnitudes back already"
    ):
        Rewind(weights="init", **halves)  # type: ignore[arg-type]
