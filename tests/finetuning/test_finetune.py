"""finetune: a trained model to a sparsity within a budget of epochs, by every kind of schedule."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.errors import DataError, MethodError, SparsifyError, TrainingError
from sparsify_fx.finetuning import Distillation, reestimate_batch_norm
from sparsify_fx.masks import kept_count
from sparsify_fx.programs.owners import programs
from sparsify_fx.programs.selection import select_layers
from sparsify_fx.schedules import AtInit, Budget, Cycles
from tests.conftest import batch, small_net

BATCHES = [batch(seed) for seed in range(6)]
TOTAL = 792


def trained_net() -> nn.Sequential:
    """A net that has learned its six batches by heart, in a second."""
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(15):
        for inputs, labels in BATCHES:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def dense() -> nn.Sequential:
    return trained_net()


@pytest.fixture
def model(dense: nn.Sequential) -> nn.Sequential:
    return copy.deepcopy(dense)


def nonzeros(model: nn.Module) -> int:
    return sum(
        int(layer.weight.count_nonzero()) for layer in select_layers(model).values()
    )


def loss_on_all(model: nn.Module) -> float:
    with torch.no_grad():
        losses = [F.cross_entropy(model(inputs), labels) for inputs, labels in BATCHES]
    return float(torch.stack(losses).mean())


@pytest.mark.parametrize("method", ["gmp", "lrr", "acdc", "magnitude", "obd", "wr"])
def test_every_kind_of_schedule_reaches_the_sparsity_within_the_budget(
    model: nn.Sequential, method: str
) -> None:
    report = sparsify_fx.finetune(
        model, method, 0.8, BATCHES, epochs=5, learning_rate=0.05
    )
    assert report.epochs == 5
    assert nonzeros(model) == report.nonzeros == kept_count(TOTAL, 0.8)
    assert not programs(model)
    assert not model.training
    pruned = sparsify_fx.merge(
        sparsify_fx.apply(
            trained_net(), "magnitude", schedule="at-init", sparsity=0.8
        ).eval()
    )
    # It learned again some of what the pruning took.
    assert loss_on_all(model) < 0.8 * loss_on_all(pruned)


def test_keep_zeros_takes_the_sparsity_of_the_model(model: nn.Sequential) -> None:
    with torch.no_grad():
        model[7].weight[:2] = 0
    found = int(model[7].weight.count_nonzero())
    report = sparsify_fx.finetune(model, "keep-zeros", 0.5, BATCHES, epochs=1)
    assert nonzeros(model) == report.nonzeros == TOTAL - (288 - found)
    assert (model[7].weight[:2] == 0).all()


def test_cycles_share_the_epochs_and_the_first_prunes_at_once() -> None:
    for sparsity in (0.5, 0.8, 0.9, 0.95, 0.99):
        for epochs in range(1, 40):
            schedule = Cycles().for_trained(sparsity, epochs, 1)
            runs = schedule.runs(sparsity)
            assert runs <= Cycles().runs(sparsity) - 1
            # Less than one epoch for each cycle is left over.
            assert epochs - runs < runs * (epochs // runs) <= epochs
            budget = Budget(10_000, sparsity)
            counts = [schedule.initial(budget)]
            counts += [update.kept for update in schedule.updates(budget)]
            assert counts == sorted(counts, reverse=True)
            assert counts[-1] == budget.kept
            assert len(counts) == runs


def test_a_description_of_cycles_names_the_new_option_only_where_it_is_used() -> None:
    plain = sparsify_fx.recipe.METHODS["lrr"].resolved().to_dict()
    assert plain["schedule"] == {"name": "cycles", "keep": 0.8}
    assert Cycles(trained=True).runs(0.0) == 1
    assert Cycles(trained=True).initial(Budget(100, 0.0)) == 100


def test_a_schedule_that_is_given_is_taken_as_it_is(model: nn.Sequential) -> None:
    with pytest.raises(MethodError, match=r"has 9 runs, and epochs=5 has no room"):
        sparsify_fx.finetune(
            model, "lrr", 0.8, BATCHES, epochs=5, schedule=Cycles(keep=0.81)
        )
    report = sparsify_fx.finetune(
        model, "lrr", 0.8, BATCHES, epochs=1, schedule=AtInit()
    )
    assert report.epochs == 1


def test_a_teacher_draws_the_outputs_to_its_own(model: nn.Sequential) -> None:
    dense, inputs = copy.deepcopy(model), BATCHES[0][0]

    def distance(**options: Any) -> float:
        student = copy.deepcopy(dense)
        sparsify_fx.finetune(
            student, "magnitude", 0.5, BATCHES, epochs=4, learning_rate=0.05, **options
        )
        with torch.no_grad():
            log, wanted = student(inputs).log_softmax(1), dense(inputs).log_softmax(1)
        return float(F.kl_div(log, wanted, reduction="batchmean", log_target=True))

    assert distance(teacher=Distillation(dense, weight=1.0)) < distance()


def test_a_model_may_be_its_own_teacher(model: nn.Sequential) -> None:
    twin = copy.deepcopy(model)
    sparsify_fx.finetune(model, "gmp", 0.8, BATCHES, epochs=2, teacher=model)
    sparsify_fx.finetune(
        twin, "gmp", 0.8, BATCHES, epochs=2, teacher=copy.deepcopy(twin)
    )
    for name, value in model.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name]), name


def test_distillation_is_the_formula_for_pixels_too() -> None:
    teacher, student = nn.Conv2d(3, 5, 1), nn.Conv2d(3, 5, 1)
    inputs, loss = torch.randn(2, 3, 4, 4), torch.tensor(0.7)
    t, s = (net(inputs).detach().double() for net in (teacher, student))
    p = (t / 3).softmax(1)
    distance = (p * (p.log() - (s / 3).log_softmax(1))).sum(1).mean()
    found = Distillation(teacher, 0.25, 3.0)(loss, student(inputs), inputs)
    torch.testing.assert_close(
        found.double(), 0.75 * loss.double() + 0.25 * 9 * distance
    )


class WithLogits(nn.Module):
    """As Hugging Face's models answer."""

    def forward(self, inputs: Tensor) -> Any:
        return type("Output", (), {"logits": inputs.repeat(1, 2)})()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 1.5}, "weight=1.5 must be in [0, 1]"),
        ({"temperature": 0}, "temperature=0 must be a positive number"),
    ],
)
def test_options_of_distillation_are_checked(
    options: dict[str, float], message: str
) -> None:
    with pytest.raises(MethodError, match=re.escape(message)):
        Distillation(nn.Linear(2, 2), **options)


def test_outputs_that_do_not_fit_are_told() -> None:
    inputs, loss = torch.randn(2, 3), torch.tensor(0.0)
    distill = Distillation(WithLogits())
    assert torch.isfinite(distill(loss, inputs.repeat(1, 2), inputs))
    with pytest.raises(MethodError, match=r"the teacher gives \(2, 6\), the model"):
        distill(loss, inputs, inputs)
    with pytest.raises(MethodError, match=r"expected logits \[N, classes\], got tuple"):
        distill(loss, (inputs,), inputs)


class Endless:
    """Batches without a length."""

    def __repr__(self) -> str:
        return "endless"

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from BATCHES


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batches": Endless()}, DataError, "needs batches with a length"),
        ({"batches": None}, DataError, "got NoneType"),
        ({"batches": []}, DataError, "no batches"),
        ({"epochs": 0}, MethodError, "epochs=0 must be a whole number"),
        ({"epochs": 1.5}, MethodError, "epochs=1.5 must be a whole number"),
        ({"sparsity": 1.0}, SparsifyError, "sparsity=1.0 must be a fraction"),
        ({"method": "gpm"}, SparsifyError, "did you mean 'gmp'?"),
        ({"method": "signin", "learning_rate": 1e30}, TrainingError, "diverged"),
        ({"allocatoin": "erk"}, SparsifyError, "did you mean 'allocation'?"),
    ],
    ids=str,
)
def test_after_an_error_the_model_is_as_it_was(
    model: nn.Sequential,
    dense: nn.Sequential,
    arguments: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    given: dict[str, Any] = {"batches": BATCHES, "epochs": 2} | arguments
    with pytest.raises(error, match=re.escape(message)):
        sparsify_fx.finetune(model, **given)
    assert [type(m) for m in model.modules()] == [type(m) for m in dense.modules()]
    assert not model.training
    for name, value in dense.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_an_interrupted_model_has_its_weights_again(
    model: nn.Sequential, dense: nn.Sequential
) -> None:
    seen = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.append(1)
        if len(seen) > 8:
            raise KeyboardInterrupt
        return F.cross_entropy(outputs, targets)

    with pytest.raises(KeyboardInterrupt):
        sparsify_fx.finetune(model, "gmp", 0.8, BATCHES, loss_fn=loss)
    for name, value in dense.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_batch_norms_are_estimated_under_the_final_weights(
    model: nn.Sequential,
) -> None:
    sparsify_fx.finetune(model, "magnitude", 0.9, BATCHES, epochs=1)
    with torch.no_grad():
        means = [model[0](inputs).mean((0, 2, 3)) for inputs, _ in BATCHES]
    torch.testing.assert_close(model[1].running_mean, torch.stack(means).mean(0))
    assert model[1].momentum == 0.1
    plain = nn.Sequential(nn.Linear(2, 2))
    reestimate_batch_norm(plain, [torch.zeros(1, 2)])


def test_layers_that_are_left_out_stay_dense(model: nn.Sequential) -> None:
    sparsify_fx.finetune(model, "gmp", 0.9, BATCHES, epochs=1, exclude=["0", "7"])
    assert int(model[0].weight.count_nonzero()) == 216
    assert int(model[3].weight.count_nonzero()) == kept_count(288, 0.9)


def test_another_optimizer_and_the_same_seed_give_the_same_bits(
    dense: nn.Sequential,
) -> None:
    def once() -> dict[str, Tensor]:
        model = copy.deepcopy(dense)
        sparsify_fx.finetune(
            model,
            "rigl",
            0.8,
            BATCHES,
            epochs=2,
            optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-3),
        )
        return model.state_dict()

    first, second = once(), once()
    assert all(torch.equal(first[name], second[name]) for name in first)
