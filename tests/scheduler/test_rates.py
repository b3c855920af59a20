"""Learning rates beside other people's: left alone, noticed, refused; several optimizers and late groups."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import sparsify_fx
from sparsify_fx.errors import LearningRateWarning, SchedulerError
from sparsify_fx.learning_rate import CosineWarmup
from tests.conftest import small_net, train_step

STEPS = 12


def prepared(method: str = "gmp", sparsity: float = 0.5, **axes: object) -> nn.Module:
    return sparsify_fx.apply(small_net(), method, sparsity=sparsity, **axes)


def make(model: nn.Module, optimizer: object, **given: object) -> sparsify_fx.Scheduler:
    return sparsify_fx.Scheduler(model, optimizer, epochs=4, steps_per_epoch=3, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("tensor", [False, True])
def test_learning_rate_none_leaves_the_rate_to_others(tensor: bool) -> None:
    model = prepared()
    rate = torch.tensor(0.5) if tensor else 0.5
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    own = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.75)
    scheduler = make(model, optimizer, learning_rate=None)
    assert (
        "0",
        "0",
        "0",
        "learning rate",
        "left to others (learning_rate=None)",
    ) in scheduler.timeline().rows()
    for step in range(STEPS):
        assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.5 * 0.75**step)
        train_step(model, optimizer)
        scheduler.step()
        own.step()
    assert scheduler.nonzeros() == 396, "everything else happens"


def test_a_rewind_of_a_rate_that_is_left_to_others_is_refused() -> None:
    model = prepared("lrr")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with pytest.raises(
        SchedulerError,
        match=r"lrr rewinds the learning rate at each of its 5 runs, .*'learning_rate'",
    ):
        make(model, optimizer, learning_rate=None)
    model = prepared("lrr", rewind={"learning_rate": None})
    scheduler = make(
        model, torch.optim.SGD(model.parameters(), lr=0.5), learning_rate=None
    )
    assert scheduler.epochs == 20


@pytest.mark.parametrize("tensor", [False, True])
def test_a_rate_that_somebody_else_changes_is_told_once(tensor: bool) -> None:
    model = prepared()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=torch.tensor(0.5) if tensor else 0.5
    )
    scheduler = make(model, optimizer, learning_rate="constant")
    told = []
    for _ in range(STEPS):
        train_step(model, optimizer)
        rate = optimizer.param_groups[0]["lr"]
        optimizer.param_groups[0]["lr"] = rate.mul_(0.9) if tensor else rate * 0.9
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            scheduler.step()
        told += caught
        if not scheduler.finished:
            assert float(optimizer.param_groups[0]["lr"]) == 0.5
    (warning,) = told
    assert warning.category is LearningRateWarning
    assert "pass learning_rate=None to leave the rate to the other one" in str(
        warning.message
    )
    assert warning.filename == __file__


def test_several_optimizers_follow_one_curve_each_from_its_own_rate() -> None:
    model = prepared("signin")
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    muon, adam = torch.optim.Muon(matrices, lr=0.02), torch.optim.AdamW(others, lr=1e-3)
    scheduler = make(model, [muon, adam], learning_rate=CosineWarmup(1))
    for step in range(STEPS):
        factor = CosineWarmup(1).factor((step + 0.5) / 3, 4)
        assert muon.param_groups[0]["lr"] == pytest.approx(0.02 * factor)
        assert adam.param_groups[0]["lr"] == pytest.approx(1e-3 * factor)
        train_step(model, muon)
        adam.step()
        scheduler.step()
    assert all(
        (p.effective()[p.current_mask() == 0] == 0).all()
        for p in sparsify_fx.programs.owners.programs(model).values()
    )


def test_an_optimizer_too_few_or_a_parameter_twice_is_refused() -> None:
    model = prepared("signin")
    matrices = [p for p in model.parameters() if p.ndim == 2]
    one, all_of_them = (
        torch.optim.SGD(matrices, lr=0.1),
        torch.optim.SGD(model.parameters(), lr=0.1),
    )
    with pytest.raises(
        SchedulerError,
        match=r"does not train 4 rewritten weights.*give all optimizers of the model",
    ):
        make(model, one)
    with pytest.raises(
        SchedulerError, match=r"7\.weight \(m\) is in several optimizers"
    ):
        make(model, [one, all_of_them])
    for odd in ([], ["adam"], object()):
        with pytest.raises(
            SchedulerError, match="takes a torch optimizer or a list of them"
        ):
            make(model, odd)


def test_groups_that_are_added_later_start_from_their_own_rate() -> None:
    model = prepared()
    extra = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    scheduler = make(model, optimizer, learning_rate=CosineWarmup(1))
    for step in range(STEPS):
        if step == 5:
            optimizer.add_param_group({"params": extra.parameters(), "lr": 0.25})
        train_step(model, optimizer)
        scheduler.step()
        if 5 <= step < STEPS - 1:
            factor = CosineWarmup(1).factor((step + 1.5) / 3, 4)
            assert optimizer.param_groups[1]["lr"] == pytest.approx(0.25 * factor)
            assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * factor)


class RateFree(torch.optim.Optimizer):
    """An optimizer that finds its step size by itself (here: none at all), as some do."""

    def __init__(self, parameters: object) -> None:
        super().__init__(parameters, {})  # type: ignore[arg-type]

    def step(self, closure: object = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.data.add_(p.grad, alpha=-0.01)


def test_an_optimizer_without_a_rate_wants_learning_rate_none() -> None:
    model = prepared()
    with pytest.raises(
        SchedulerError,
        match=r"RateFree has a parameter group with lr=None.*learning_rate=None",
    ):
        make(model, RateFree(model.parameters()))
    optimizer = RateFree(model.parameters())
    scheduler = make(model, optimizer, learning_rate=None)
    while not scheduler.finished:
        train_step(model, optimizer)
        scheduler.step()
    assert scheduler.nonzeros() == 396


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (
            lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o),
            "made a ReduceLROnPlateau; .*waits for a metric",
        ),
        (lambda o: None, "made a NoneType; expected a torch scheduler"),
        (0.1, r"learning_rate=0\.1 must be a name .*or None to leave"),
    ],
)
def test_rates_that_cannot_be_followed_are_refused_in_words(
    rate: object, message: str
) -> None:
    model = prepared()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with pytest.raises(SchedulerError, match=message):
        make(model, optimizer, learning_rate=rate)
    made = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with pytest.raises(SchedulerError, match=r"StepLR.* is made already"):
        make(model, optimizer, learning_rate=made)
    assert all(
        torch.equal(before[name], tensor) for name, tensor in model.state_dict().items()
    )


def test_a_tensor_rate_that_comes_back_from_a_file_is_no_change() -> None:
    model = prepared()
    optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.5))
    scheduler = make(model, optimizer)
    for _ in range(STEPS):
        optimizer.load_state_dict(
            optimizer.state_dict()
        )  # as accelerate's prepare does: another tensor
        train_step(model, optimizer)
        scheduler.step()
