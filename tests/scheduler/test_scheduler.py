from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.actions import RescaleEvery
from sparsify_fx.errors import MethodError, SchedulerError, TrainingError
from sparsify_fx.learning_rate import CosineWarmup
from sparsify_fx.passes import InsertMask
from sparsify_fx.penalties import Frobenius
from sparsify_fx.rewinds import Rewind
from sparsify_fx.schedules import Cycles
from tests.conftest import batch, effective, small_net, train_step


def make(
    method: str,
    *,
    epochs: int = 4,
    learning_rate: object = "cosine-warmup",
    sparsity: float = 0.5,
    **axes: object,
) -> tuple[nn.Module, torch.optim.Optimizer, sparsify_fx.Scheduler]:
    model = sparsify_fx.apply(small_net(), method, sparsity=sparsity, **axes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    scheduler = sparsify_fx.Scheduler(
        model,
        optimizer,
        epochs=epochs,
        steps_per_epoch=3,
        learning_rate=learning_rate,  # type: ignore[arg-type]
    )
    return model, optimizer, scheduler


def rates(
    optimizer: torch.optim.Optimizer, scheduler: sparsify_fx.Scheduler, model: nn.Module
) -> list[float]:
    seen = []
    while not scheduler.finished:
        seen.append(float(optimizer.param_groups[0]["lr"]))
        train_step(model, optimizer)
        scheduler.step()
    return seen


def test_each_cycle_keeps_four_fifths_and_the_last_lands_on_the_sparsity() -> None:
    model, optimizer, scheduler = make("lrr", sparsity=1 - 0.8**8)
    assert scheduler.epochs == 9 * 4
    counts = {}
    while not scheduler.finished:
        train_step(model, optimizer)
        if scheduler.ends_run:
            counts[scheduler.run] = scheduler.nonzeros()
        scheduler.step()
    assert counts == {run: round(0.8**run * 792) for run in range(9)}
    assert scheduler.density() == round(0.8**8 * 792) / 792


def test_the_learning_rate_rewinds_with_and_without_warmup() -> None:
    model, optimizer, scheduler = make("lrr", epochs=6, learning_rate=CosineWarmup(2))
    with_warmup = rates(optimizer, scheduler, model)
    one = [0.5 * CosineWarmup(2).factor((step + 0.5) / 3, 6) for step in range(18)]
    assert with_warmup == pytest.approx(one * 5)  # 0.5 at keep 0.8: four prunings
    model, optimizer, scheduler = make(
        "lrr-nowarmup", epochs=6, learning_rate=CosineWarmup(2)
    )
    assert scheduler.epochs == 6 + 4 * (6 - 2)
    assert rates(optimizer, scheduler, model) == pytest.approx(one + one[6:] * 4)


def test_without_learning_rate_rewinding_one_curve_spans_all_runs() -> None:
    model, optimizer, scheduler = make(
        "lrr", rewind=Rewind(learning_rate=None), learning_rate=CosineWarmup(2)
    )
    expected = [
        0.5 * CosineWarmup(2).factor((step + 0.5) / 3, 20) for step in range(60)
    ]
    assert rates(optimizer, scheduler, model) == pytest.approx(expected)


def test_a_torch_scheduler_starts_again_with_each_run_and_resumes() -> None:
    def factory(
        optimizer: torch.optim.Optimizer,
    ) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)

    model, optimizer, scheduler = make("lrr", epochs=1, learning_rate=factory)
    assert rates(optimizer, scheduler, model) == pytest.approx([0.5, 0.25, 0.125] * 5)

    _, second, other = make("lrr", epochs=1, learning_rate=factory)
    model, optimizer, scheduler = make("lrr", epochs=1, learning_rate=factory)
    for _ in range(4):
        train_step(model, optimizer)
        scheduler.step()
    state = copy.deepcopy(scheduler.state_dict())
    second.load_state_dict(optimizer.state_dict())
    other.model.load_state_dict(model.state_dict())
    other.load_state_dict(state)
    assert second.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] == 0.25
    train_step(model, optimizer)
    scheduler.step()
    train_step(other.model, second)
    other.step()
    assert second.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] == 0.125


def test_a_tensor_learning_rate_is_filled_in_place() -> None:
    model = sparsify_fx.apply(small_net(), "signin")
    rate = torch.tensor(0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    sparsify_fx.Scheduler(
        model, optimizer, epochs=2, steps_per_epoch=2, learning_rate=CosineWarmup(1)
    )
    assert optimizer.param_groups[0]["lr"] is rate
    assert float(rate) == pytest.approx(0.125)


@pytest.mark.parametrize("method", ["imp", "wr", "lrr"])
def test_rewinding_the_optimizer_leaves_its_groups_and_a_tensor_rate_in_place(
    method: str,
) -> None:
    model = sparsify_fx.apply(small_net(), method, sparsity=0.3)
    rate = torch.tensor(0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    groups = list(optimizer.param_groups)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=3, steps_per_epoch=2)
    while not scheduler.finished:
        train_step(model, optimizer)
        scheduler.step()
    assert all(a is b for a, b in zip(groups, optimizer.param_groups, strict=True))
    assert optimizer.param_groups[0]["lr"] is rate


def test_rescaling_happens_at_the_epochs_of_algorithm_1() -> None:
    # epoch i = 1, 2, ... starts after i − 1 epochs; rescale when i mod p = 0 and i < T2
    assert RescaleEvery(every=1, until=75).epochs(150) == list(range(74))
    assert RescaleEvery(every=5, until=0.5).epochs(30) == [4, 9]
    assert RescaleEvery(every=1, until=1.0).epochs(3) == [0, 1]
    model, optimizer, scheduler = make("signin", epochs=3)
    balance = []
    for _ in range(9):
        train_step(model, optimizer)
        scheduler.step()
        m, w = model[7].weight_program.m.detach(), model[7].weight_program.w.detach()
        balance.append(float((m * m - w * w - 1).abs().max()))
    assert balance[2] < 1e-5, "rescaled after the first epoch"
    assert all(value > 1e-5 for i, value in enumerate(balance) if i != 2), (
        "and at no other time (T2 = 2.25)"
    )


@pytest.mark.parametrize("storage", ["full", "living"])
def test_frobenius_decay_has_the_gradient_of_weight_decay(storage: str) -> None:
    penalty = {"name": "frobenius", "strength": 0.1}
    model, _, scheduler = make("signin", penalty=penalty, storage=storage)
    scheduler.penalty().backward()
    program = model[7].weight_program
    theta, mask = effective(model)["7.weight"], program.current_mask()
    torch.testing.assert_close(
        program.restored(program.w.grad), 0.1 * theta * program.tensors()["m"] * mask
    )
    assert Frobenius(0.1)([program]).item() == pytest.approx(
        0.05 * float(theta.square().sum())
    )
    _, _, plain = make("signin")
    assert plain.penalty().item() == 0


def test_the_timeline_tells_everything_before_training() -> None:
    model, _, scheduler = make(
        "signin+wr", sparsity=0.36, learning_rate=CosineWarmup(1)
    )
    before = {key: value.clone() for key, value in model.state_dict().items()}
    text = str(scheduler.timeline())
    assert "3 run(s), 12 epochs, 36 optimizer steps" in text
    rows = scheduler.timeline().rows()
    assert rows == [
        ("0", "0", "0", "learning rate", "CosineWarmup(warmup=1)"),
        ("0", "0, 1", "0 … 3", "rescale", "every=1, until=0.75"),
        ("0", "1", "3", "snapshot", "at warmup"),
        ("1", "0", "12", "prune", "keep 634 of 792 weights, density 0.800505"),
        ("1", "0", "12", "rewind weights", "to warmup"),
        ("1", "0", "12", "rewind optimizer", "to warmup"),
        ("1", "0", "12", "rewind learning rate", "to init"),
        ("1", "0, 1", "12 … 15", "rescale", "every=1, until=0.75"),
        ("2", "0", "24", "prune", "keep 507 of 792 weights, density 0.640152"),
        ("2", "0", "24", "rewind weights", "to warmup"),
        ("2", "0", "24", "rewind optimizer", "to warmup"),
        ("2", "0", "24", "rewind learning rate", "to init"),
        ("2", "0, 1", "24 … 27", "rescale", "every=1, until=0.75"),
    ]
    assert all(
        torch.equal(before[key], value) for key, value in model.state_dict().items()
    )


def test_state_is_loadable_without_pickle_execution() -> None:
    model, optimizer, scheduler = make("wr")
    for _ in range(8):
        train_step(model, optimizer)
        scheduler.step()
    stream = io.BytesIO()
    torch.save(scheduler.state_dict(), stream)
    stream.seek(0)
    state = torch.load(stream, weights_only=True)
    assert set(state["snapshots"]["warmup"]) == {"weights", "optimizer"}
    assert not any(
        name.endswith("mask") for name in state["snapshots"]["warmup"]["weights"]
    )


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (
            lambda: make("lrr", epochs=0),
            SchedulerError,
            "epochs=0 must be a whole number >= 1",
        ),
        (
            lambda: make("wr", learning_rate="constant"),
            SchedulerError,
            "this learning-rate curve has none",
        ),
        (
            lambda: make("imp", rewind={"weights": 4}),
            SchedulerError,
            "the run has only 4 epochs",
        ),
        (
            lambda: make("lrr", learning_rate="cosine"),
            ValueError,
            "did you mean 'cosine-warmup'",
        ),
    ],
)
def test_impossible_schedules_are_explained(
    build: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build()


def test_a_model_without_a_plan_is_refused(net: nn.Sequential) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for prepare in (lambda: None, lambda: InsertMask()(net)):
        prepare()
        with pytest.raises(MethodError, match=r"call sparsify_fx\.apply"):
            sparsify_fx.Scheduler(net, optimizer, epochs=1, steps_per_epoch=1)


def test_an_optimizer_built_before_apply_is_refused_or_keeps_training(
    net: nn.Sequential,
) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    sparsify_fx.apply(net, "signin")
    with pytest.raises(
        SchedulerError, match=r"does not train 6 rewritten weights, .*build it after"
    ):
        sparsify_fx.Scheduler(net, optimizer, epochs=1, steps_per_epoch=1)
    # A dense parameterization keeps the very same parameter: nothing is stale.
    plain = small_net()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    sparsify_fx.apply(plain, "random")
    sparsify_fx.Scheduler(plain, optimizer, epochs=1, steps_per_epoch=1)
    before = effective(plain)["7.weight"]
    train_step(plain, optimizer)
    assert not torch.equal(effective(plain)["7.weight"], before)


def test_the_state_of_another_schedule_is_refused() -> None:
    _, _, scheduler = make("lrr")
    _, _, other = make("lrr", schedule=Cycles(keep=0.5))
    with pytest.raises(
        SchedulerError, match=r"another one: axes: saved .*0\.8.*here .*0\.5"
    ):
        other.load_state_dict(scheduler.state_dict())


def test_a_pruned_model_is_not_taken_through_another_schedule() -> None:
    model, optimizer, scheduler = make("gmp", epochs=6)
    rates(optimizer, scheduler, model)
    again = sparsify_fx.Scheduler(model, optimizer, epochs=6, steps_per_epoch=3)
    with pytest.raises(
        SchedulerError,
        match=r"masks keep 396 of 792 weights already, and gmp keeps \d+ at epoch .*merge",
    ):
        again.step()
    again.load_state_dict(scheduler.state_dict())
    assert again.finished
    sparsify_fx.apply(sparsify_fx.merge(model), "gmp", sparsity=0.75)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=6, steps_per_epoch=3)
    rates(optimizer, scheduler, model)
    assert scheduler.nonzeros() == 198


@pytest.mark.parametrize("state", [None, {}, [], {"step": 1}])
def test_what_is_no_state_is_refused(state: object) -> None:
    _, _, scheduler = make("gmp", epochs=6)
    with pytest.raises(
        SchedulerError, match="this is no state of a Scheduler: it holds"
    ):
        scheduler.load_state_dict(state)  # type: ignore[arg-type]
    for step in (-1, 99, "3", 1.5):
        with pytest.raises(SchedulerError, match="its state is damaged"):
            scheduler.load_state_dict({**scheduler.state_dict(), "step": step})
    for accuracy in ("high", 93.5, float("nan")):
        with pytest.raises(SchedulerError, match=r"must be a number in \[0, 1\]"):
            scheduler.observe(accuracy=accuracy)  # type: ignore[arg-type]


def test_steps_beyond_the_end_are_refused() -> None:
    model, optimizer, scheduler = make("random", epochs=1)
    rates(optimizer, scheduler, model)
    with pytest.raises(SchedulerError, match="ended after 3 steps"):
        scheduler.step()


def test_a_diverged_model_is_not_pruned_silently() -> None:
    model, optimizer, scheduler = make("lrr", epochs=1)
    for _ in range(2):
        train_step(model, optimizer)
        scheduler.step()
    with torch.no_grad():
        model[7].weight_program.dense.fill_(torch.nan)
    F.cross_entropy(model(batch()[0]), batch()[1]).backward()
    before = {
        name: tensor.clone()
        for name, tensor in model.state_dict().items()
        if name.endswith("mask")
    }
    with pytest.raises(
        TrainingError,
        match=r"after epoch 1 1 weights hold NaN or Inf, for instance 7\.weight \(dense\)",
    ):
        scheduler.step()
    assert all(
        torch.equal(mask, model.state_dict()[name]) for name, mask in before.items()
    )


@pytest.mark.parametrize("method", ["signin", "gmp", "lrr+signin"])
@pytest.mark.parametrize("scheduler_first", [True, False])
def test_weights_of_version_0_1_go_on_in_any_order_of_loading(
    method: str, scheduler_first: bool
) -> None:
    """They tell nothing of their step, so that a Scheduler cannot know whether the events of step 0 are past."""

    def build() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = sparsify_fx.apply(small_net(), method, sparsity=0.5)
        return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def follow(
        model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> sparsify_fx.Scheduler:
        return sparsify_fx.Scheduler(model, optimizer, epochs=6, steps_per_epoch=2)

    model, optimizer = build()
    scheduler = follow(model, optimizer)
    while not scheduler.finished:
        if scheduler.step_count == 5:
            states = copy.deepcopy(
                [model.state_dict(), optimizer.state_dict(), scheduler.state_dict()]
            )
        train_step(model, optimizer, scheduler.step_count)
        scheduler.step()
    old = {
        key: value
        for key, value in states[0].items()
        if not key.endswith("_extra_state")
    }
    twin, second = build()
    other = follow(twin, second) if scheduler_first else None
    twin.load_state_dict(old)
    second.load_state_dict(states[1])
    other = other or follow(twin, second)
    other.load_state_dict(states[2])
    while not other.finished:
        train_step(twin, second, other.step_count)
        other.step()
    assert all(
        torch.equal(weight, effective(twin)[name])
        for name, weight in effective(model).items()
    )


def test_events_are_performed_and_facts_do_nothing() -> None:
    _, _, scheduler = make("gmp", sparsity=0.5)
    events, facts = scheduler.timeline().events, scheduler.timeline().facts
    for fact in facts:
        fact.perform()
    assert scheduler.density() == 1
    [event for event in events if event.what == "prune"][-1].perform()
    assert scheduler.density() == 0.5


def test_the_old_name_of_perform_warns() -> None:
    fact = make("gmp")[2].timeline().facts[0]
    with pytest.warns(DeprecationWarning, match=r"Event\.do is now Event\.perform"):
        fact.do()
