"""Everything that a program's behavior depends on goes into a state dict, and comes back out of it."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn

import sparsify_fx
from sparsify_fx.actions import ACTIONS, Occasion, PerturbSigns, RescaleEvery, SignsOf
from sparsify_fx.api import effective_state_dict
from sparsify_fx.errors import LayerError, TakenNameError
from sparsify_fx.parameterizations import (
    PARAMETERIZATIONS,
    BalancedProduct,
    Dense,
    HardConcrete,
    Moment,
    Plain,
    PowerPropagation,
    ProbabilityGate,
    Product,
    RoundedGate,
    SigmoidGate,
    SoftThreshold,
    TopScores,
)
from sparsify_fx.passes import InsertMask, Rescale, RewindBatchNorm, batchnorm_state
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.program import is_extra, unmarked
from sparsify_fx.programs.progress import Progress
from sparsify_fx.programs.state import BLOCK, decode, encode, name_of, restored
from sparsify_fx.recipe import axis_value, describe
from sparsify_fx.transfer import masked_state_dict, take_from
from tests.common import every_third
from tests.conftest import batch, effective, small_net, train_step

pytestmark = pytest.mark.slow

Change = Callable[[nn.Module, Path], None]

PARAMETERIZED = [
    Dense(),
    Product(),
    Product(beta=0.25),
    BalancedProduct(),
    SoftThreshold(),
    SoftThreshold(start=-2.0, gate="exp", per="channel"),
    SigmoidGate(),
    SigmoidGate(start=-0.5, temperature=50.0, scale=3.0),
    HardConcrete(),
    HardConcrete(start=1.0, b=0.5, gamma=-0.2, zeta=1.2, scale=2.0),
    PowerPropagation(),
    PowerPropagation(alpha=3.0),
    TopScores(),
    RoundedGate(),
    RoundedGate(levels=3, scale=2.0),
    ProbabilityGate(),
    ProbabilityGate(start=0.0, end=1.0, scale=2.0),
]


def made(parameterization: Any = None, seed: int = 0) -> nn.Sequential:
    return sparsify_fx.apply(
        small_net(seed),
        "random",
        sparsity=0.5,
        seed=seed,
        parameterization=parameterization,
    )


def assert_same(a: nn.Module, b: nn.Module) -> None:
    assert all(
        torch.equal(x, y)
        for x, y in zip(effective(a).values(), effective(b).values(), strict=True)
    )


def refresh(model: nn.Module, progress: float, seed: int) -> None:
    for program in programs(model).values():
        program.parameterization.refresh(
            program.state_tensors(), Moment(progress, seed)
        )


def train(model: nn.Module, steps: int = 2) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step in range(steps):
        refresh(model, step / 10, step)
        train_step(model, optimizer, seed=step)


def settle(model: nn.Module) -> None:
    for program in programs(model).values():
        program.settle()


def other_masks(model: nn.Module) -> dict[str, Tensor]:
    return {
        n: (torch.arange(p.theta().numel()) % 3 != 0).reshape(p.theta().shape)
        for n, p in programs(model).items()
    }


def rescale(beta: float | None) -> Change:
    def change(model: nn.Module, folder: Path) -> None:
        if all(
            isinstance(program.parameterization, Product)
            for program in programs(model).values()
        ):
            Rescale(beta)(model)

    return change


def signs_of(model: nn.Module, folder: Path) -> None:
    donor = masked_state_dict(made(seed=3))
    safetensors.torch.save_file(
        {k: v.contiguous() for k, v in donor.items()}, folder / "cycle-1.safetensors"
    )
    SignsOf(str(folder))(model, Occasion(1, 0, 0))


CHANGES: dict[str, Change] = {
    "nothing": lambda model, folder: None,
    "training": lambda model, folder: train(model),
    "new masks": lambda model, folder: [
        p.set_mask(other_masks(model)[n]) for n, p in programs(model).items()
    ],
    "InsertMask": lambda model, folder: InsertMask(other_masks(model))(model),
    "Rescale": rescale(None),
    "Rescale(beta)": rescale(0.05),
    "RewindBatchNorm": lambda model, folder: RewindBatchNorm(
        batchnorm_state(small_net(5))
    )(model),
    "settle": lambda model, folder: settle(model),
    "settle, Rescale(beta)": lambda model, folder: (
        settle(model),
        rescale(7.0)(model, folder),
    ),
    "rescale": lambda model, folder: (
        RescaleEvery()(model, Occasion(0, 1, 0)) if is_product(model) else None
    ),
    "perturb-signs": lambda model, folder: PerturbSigns(0.4)(model, Occasion(1, 0, 0)),
    "signs-of": signs_of,
    "double": lambda model, folder: model.double(),
    "write": lambda model, folder: [
        p.write(p.theta() * 2) for p in programs(model).values()
    ],
}


def is_product(model: nn.Module) -> bool:
    return all(
        isinstance(program.parameterization, Product)
        for program in programs(model).values()
    )


def behavior(model: nn.Module) -> list[Tensor]:
    """What every program gives from here on, in training and evaluation, when all that can happen to it happens."""
    seen: list[Tensor] = []

    def look() -> None:
        for mode in (True, False):
            model.train(mode)
            seen.extend(effective(model).values())
        for program in programs(model).values():
            seen.extend(
                (
                    program.theta().clone(),
                    program.effective().clone(),
                    program.settled().clone(),
                )
            )
            seen.extend(tensor.clone() for tensor in program.tensors().values())

    refresh(model, 0.5, 11)
    look()
    for program in programs(model).values():
        seen.extend(
            program.parameterization.split(
                torch.sin(program.theta()), program.tensors()
            ).values()
        )
        program.write(torch.cos(program.theta()))
    train(model.train())
    look()
    InsertMask(other_masks(model))(model)
    rescale(None)(model, Path())
    look()
    settle(model)
    refresh(model, 1.0, 12)
    look()
    seen.extend(effective_state_dict(model).values())
    return seen


@pytest.mark.parametrize(("change", "how"), every_third(list(CHANGES), PARAMETERIZED))
def test_a_loaded_program_behaves_as_the_saved_one(
    change: str, how: Any, tmp_path: Path
) -> None:
    model = made(how)
    CHANGES[change](model, tmp_path)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    again = made(how, seed=1)
    if change == "double":
        again.double()
    again.load_state_dict(torch.load(tmp_path / "model.pt"))
    assert [p.parameterization for p in programs(again).values()] == [
        p.parameterization for p in programs(model).values()
    ]
    if change == "double":
        expected, found = effective_state_dict(model), effective_state_dict(again)
        assert all(
            torch.equal(found[name], tensor) for name, tensor in expected.items()
        )
        return
    assert all(
        torch.equal(a, b) for a, b in zip(behavior(model), behavior(again), strict=True)
    )


FORMER = {
    "balanced": BalancedProduct(),
    "l0": HardConcrete(),
    "power": PowerPropagation(),
}


@pytest.mark.parametrize("former", FORMER)
def test_files_keep_the_name_that_a_parameterization_had_in_0_1(former: str) -> None:
    """Then its bits are the same, 0.1 reads it, and runs and schedules of 0.1 go on."""
    own = FORMER[former]
    description = decode(encode(own, Progress()))["parameterization"]
    assert name_of(description) == former
    assert restored(own, description) is own
    told = description if isinstance(description, dict) else {"name": description}
    present = PARAMETERIZATIONS.present_name(former)
    assert restored(own, {**told, "name": present}) == own  # either name is read
    assert axis_value("parameterization", description) == own
    assert axis_value("parameterization", {"name": former}) == own
    assert name_of(describe("parameterization", own)) == present != former
    assert former not in list(PARAMETERIZATIONS)
    assert former in PARAMETERIZATIONS
    with pytest.raises(TakenNameError, match=repr(former)):
        PARAMETERIZATIONS.add(former, type(own))


def test_every_parameterization_and_action_is_tried() -> None:
    """Whoever registers another one adds it to the walk above."""
    assert {PARAMETERIZATIONS.name_of(type(how)) for how in PARAMETERIZED} == set(
        PARAMETERIZATIONS
    )
    assert set(ACTIONS) <= set(CHANGES)


def test_a_pipeline_of_bare_passes_comes_back() -> None:
    def lifted() -> nn.Sequential:
        model = small_net()
        InsertMask()(model)
        sparsify_fx.passes.Product(beta=2.0)(model)
        return model

    model, again = lifted(), lifted()
    Rescale(beta=0.5)(model)
    again.load_state_dict(model.state_dict())
    assert {p.parameterization for p in programs(again).values()} == {Product(beta=0.5)}


# ---------------------------------------------------------------------- the tensor


def test_its_shape_and_type_stay_from_step_to_step() -> None:
    model = made(Product())
    shapes = set()
    for step in (0, 9, 10**9):
        for program in programs(model).values():
            program.progress = Progress(step, 10**9, "0123456789abcdef" if step else "")
        extras = {
            key: value for key, value in model.state_dict().items() if is_extra(key)
        }
        assert set(extras) == {
            f"{name}_program._extra_state" for name in programs(model)
        }
        shapes |= {
            (value.shape, value.dtype, value.device.type) for value in extras.values()
        }
    assert shapes == {((BLOCK,), torch.uint8, "cpu")}


@pytest.mark.parametrize(
    "way",
    [
        "torch",
        "safetensors",
        "distributed",
        "assign",
        "meta",
        "deepcopy",
        "pickle",
        "strict=False",
    ],
)
def test_progress_and_options_go_every_way(way: str, tmp_path: Path) -> None:
    model, again, progress = (
        made(Product()),
        made(Product(), seed=1),
        Progress(7, 70, "abc"),
    )
    for program in programs(model).values():
        program.progress = progress
    shared = Progress()
    for program in programs(again).values():
        program.progress = shared
    Rescale(beta=0.125)(model)
    if way == "safetensors":
        safetensors.torch.save_model(model, str(tmp_path / "model.safetensors"))
        safetensors.torch.load_model(again, str(tmp_path / "model.safetensors"))
    elif way == "distributed":
        state = again.state_dict()
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "torch.distributed is disabled", UserWarning
            )
            dcp.save(model.state_dict(), checkpoint_id=tmp_path, no_dist=True)
            dcp.load(state, checkpoint_id=tmp_path, no_dist=True)
        again.load_state_dict(state)
    elif way in ("deepcopy", "pickle"):
        again = (
            copy.deepcopy(model)
            if way == "deepcopy"
            else pickle.loads(pickle.dumps(model))
        )
        shared = programs(again)["0.weight"].progress
    else:
        if way == "meta":
            again.to("meta")
        torch.save(model.state_dict(), tmp_path / "model.pt")
        state = torch.load(tmp_path / "model.pt")
        again.load_state_dict(
            state, assign=way in ("assign", "meta"), strict=way != "strict=False"
        )
    assert shared == progress
    assert shared is not progress
    assert all(program.progress is shared for program in programs(again).values())
    assert {program.parameterization for program in programs(again).values()} == {
        Product(beta=0.125)
    }
    assert_same(model, again)


def test_a_checkpoint_from_before_loads_strictly() -> None:
    """Version 0.1 had no such key."""
    old = {
        key: value
        for key, value in made(Product()).state_dict().items()
        if not is_extra(key)
    }
    again = made(Product(), seed=1)
    Rescale(beta=0.5)(again)
    again.load_state_dict(old)
    assert {program.parameterization for program in programs(again).values()} == {
        Product(beta=0.5)
    }
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            effective(made(Product())).values(), effective(again).values(), strict=True
        )
    )


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("saved", "here", "words"),
    [
        (
            PowerPropagation(),
            Dense(),
            r"0\.weight: the state is that of the parameterization 'power-propagation', .* has 'dense'",
        ),
        (
            Dense(),
            PowerPropagation(),
            r"0\.weight: the state is that of the parameterization 'dense', .* has 'power-propagation'",
        ),
        (
            Product(),
            BalancedProduct(),
            r"'product', the program of this model has 'balanced-product': they are of different methods",
        ),
        (
            PowerPropagation(alpha=3.0),
            PowerPropagation(),
            r"'alpha': 3\.0.*'alpha': 2\.0.*they compute different weights",
        ),
        (
            SoftThreshold(gate="exp"),
            SoftThreshold(),
            r"'gate': 'exp'.*they compute different weights",
        ),
        (
            SigmoidGate(scale=2.0),
            SigmoidGate(),
            r"'scale': 2\.0.*they compute different weights",
        ),
        (
            HardConcrete(b=0.5),
            HardConcrete(),
            r"'b': 0\.5.*they compute different weights",
        ),
    ],
    ids=str,
)
def test_states_of_other_programs_with_the_same_keys_are_refused(
    saved: Any, here: Any, words: str, strict: bool
) -> None:
    """The keys are the same: without care the tensors would load and give other weights."""
    model = made(here)
    before = effective(model)
    with pytest.raises(RuntimeError, match=words) as caught:
        model.load_state_dict(made(saved, seed=1).state_dict(), strict=strict)
    assert "save sparsify_fx.dense_state_dict(model) and load that" in str(caught.value)
    assert all(
        torch.equal(weight, before[name]) for name, weight in effective(model).items()
    )
    assert {program.parameterization for program in programs(model).values()} == {here}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (torch.zeros(BLOCK, dtype=torch.uint8), "is damaged"),
        (torch.full((BLOCK,), 255, dtype=torch.uint8), "is damaged"),
        (torch.zeros(0, dtype=torch.uint8), "is damaged"),
        (torch.randn(4), "is damaged"),
        ({"step": 3}, "a dict in place of a uint8 tensor"),
        (
            torch.tensor(
                list(
                    b'{"parameterization": "dense", "step": -4, "steps": 0, "schedule": ""}'
                )
            ),
            "is damaged",
        ),
        (
            torch.tensor(
                list(b'{"parameterization": 3, "step": 0, "steps": 0, "schedule": ""}')
            ),
            "is damaged",
        ),
        (torch.tensor(list(b"[" * 5000), dtype=torch.uint8), "is damaged"),
        (encode(Product(), Progress())[:40], "is damaged"),
    ],
)
def test_a_damaged_extra_state_is_an_error_in_words(state: Any, words: str) -> None:
    model = made(Product())
    with pytest.raises(
        RuntimeError,
        match=rf"7\.weight: the state of its weight program .*{words}|{words}",
    ):
        model.load_state_dict(
            {**model.state_dict(), "7.weight_program._extra_state": state}
        )
    with pytest.raises(
        LayerError, match="the state of a weight program cannot be loaded"
    ):
        programs(model)["7.weight"].set_extra_state(state)


def test_an_impossible_option_is_an_error_in_words() -> None:
    model = made(Product())
    content = decode(programs(model)["0.weight"].get_extra_state())
    for option in ({"beta": -1.0}, {"beta": "much"}, {}, {"beta": 1.0, "gamma": 2.0}):
        text = json.dumps(
            {**content, "parameterization": {"name": "product", **option}}
        ).encode()
        state = torch.tensor(list(text), dtype=torch.uint8)
        with pytest.raises(
            RuntimeError, match=r"0\.weight: the state was saved with .*product"
        ):
            model.load_state_dict(
                {**model.state_dict(), "0.weight_program._extra_state": state}
            )


@dataclass(frozen=True)
class Stepped(Plain):
    """A parameterization of somebody else, with a tuple, a nested option, and no entry in the registry."""

    levels: tuple[float, ...] = (1.0, 2.0)
    note: str | None = None
    factors = ("dense",)

    def value(self, tensors: Any) -> Any:
        return tensors["dense"] * 1.0

    def split(self, theta: Tensor, others: Any = None) -> dict[str, Tensor]:
        return {"dense": theta.clone()}


def test_options_of_other_types_come_back() -> None:
    model, again = made(Stepped(levels=(3.0, 4.0), note="x")), made(Stepped())
    again.load_state_dict(model.state_dict())
    assert {program.parameterization for program in programs(again).values()} == {
        Stepped((3.0, 4.0), "x")
    }


# ---------------------------------------------------------------------- whoever walks state dicts


class Counting(nn.Linear):
    """A layer with an extra state that is no tensor, as many have."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.seen = {"calls": 0}

    def get_extra_state(self) -> dict[str, int]:
        return dict(self.seen)

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.seen = dict(state)


class Plainly(nn.Module):
    """One beside the layers."""

    def get_extra_state(self) -> str:
        return "epoch 3"

    def set_extra_state(self, state: str) -> None:
        assert state == "epoch 3"

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


def counted(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(Counting(6, 8), Plainly(), nn.BatchNorm1d(8), Counting(8, 4))
    model[0].seen = {"calls": 5 + seed}
    return model


@pytest.mark.parametrize("method", ["signin", "random", "str"])
def test_extra_states_that_are_no_tensors(method: str, tmp_path: Path) -> None:
    model = sparsify_fx.apply(counted(), method, sparsity=0.5)
    again = sparsify_fx.apply(counted(1), method, sparsity=0.5, seed=1)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    again.load_state_dict(torch.load(tmp_path / "model.pt"))
    assert again[0].seen == {"calls": 5}
    assert_same(model, again)
    assert all(
        isinstance(tensor, Tensor) for tensor in unmarked(model.state_dict()).values()
    )
    plain = effective_state_dict(model)
    assert set(plain) == set(counted().state_dict())
    counted(2).load_state_dict(plain)
    assert copy.deepcopy(model)[0].seen == {"calls": 5}


def test_taking_from_a_model_with_such_a_state() -> None:
    here = sparsify_fx.apply(counted(), "random", sparsity=0.5)
    there = sparsify_fx.apply(counted(1), "random", sparsity=0.5, seed=1)
    take_from(here, masked_state_dict(there), take=("mask", "weights"))
    assert_same(here, there)


def test_rewinds_pass_by_extra_states() -> None:
    model = sparsify_fx.apply(counted(), "imp", sparsity=0.36)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=2, steps_per_epoch=1)
    while not scheduler.finished:
        train_step(lambda inputs: model(inputs.flatten(1)[:, :6]), optimizer)
        model[0].seen["calls"] += 1
        scheduler.step()
    assert model[0].seen == {"calls": 5 + scheduler.steps}
    assert programs(model)["0.weight"].progress.step == scheduler.steps
    assert programs(model)["0.weight"].progress.steps == scheduler.steps


def test_what_is_made_of_a_model_does_not_know_its_step(tmp_path: Path) -> None:
    """Donors are known by a digest of their states, which must not change with the steps of their training."""
    from sparsify_fx.checkpoints.run_files import digest

    model = made(Product())
    before = digest(masked_state_dict(model))
    for program in programs(model).values():
        program.progress.step += 1
    assert digest(masked_state_dict(model)) == before


def test_reports_do_not_count_it(tmp_path: Path) -> None:
    model = made(Product())
    torch.save(model.state_dict(), tmp_path / "new.pt")
    torch.save(
        {k: v for k, v in model.state_dict().items() if not is_extra(k)},
        tmp_path / "old.pt",
    )
    new, old = (
        sparsify_fx.inspect_file(tmp_path / name).layers
        for name in ("new.pt", "old.pt")
    )
    assert new == old


def test_tracers_and_exporters_take_no_notice() -> None:
    model, (inputs, _) = made(Product()).eval(), batch()
    exported = torch.export.export(model, (inputs,))
    assert not any(map(is_extra, exported.state_dict))
    torch.testing.assert_close(exported.module()(inputs), model(inputs))
    traced = torch.fx.symbolic_trace(model)
    traced.load_state_dict(made(Product(), seed=1).state_dict())
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            effective(traced).values(),
            effective(made(Product(), 1)).values(),
            strict=True,
        )
    )


@pytest.mark.parametrize("training", [True, False])
def test_random_gates_are_in_the_mode_of_the_model(training: bool) -> None:
    model = sparsify_fx.apply(small_net().train(training), "l0", sparsity=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsify_fx.Scheduler(
        model, optimizer, epochs=4, steps_per_epoch=2
    )  # draws the first noise
    noisy = {
        name: float(program.get_buffer("noisy"))
        for name, program in programs(model).items()
    }
    assert set(noisy.values()) == {float(training)}
    seen = programs(model)["7.weight"]()
    assert torch.equal(seen, programs(model)["7.weight"].effective()) is not training
