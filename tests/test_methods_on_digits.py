"""Every registered method, and the sums of the papers, trained on real digits from apply to onnxruntime.

A new method is covered without an edit. Near relations run with `pytest -m sweep` alone.
"""

from __future__ import annotations

import functools
import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

import sparsify_fx
from sparsify_fx.criteria import FindsSparsity
from sparsify_fx.learning_rate import CosineWarmup
from sparsify_fx.masks import kept_count
from sparsify_fx.plan import require_plan
from sparsify_fx.programs.owners import programs
from sparsify_fx.recipe import METHODS, find_method
from sparsify_fx.schedules import Budget, RegrowEvery
from sparsify_fx.zoo.data import Data, load_data
from tests.common import swept

pytestmark = pytest.mark.slow

SPARSITY = 0.55
EPOCHS, STEPS, BATCH = 6, 10, 100
SUMS = (
    "acdc+signin",
    "lrr+pilot",
    "lrr+signin",
    "lrr+snip",
    "pilot+wr",
    "rigl+signin",
    "imp+synflow",
    "signin+snip",
    "signin+synflow",
)
# Near relations of others of the list; the laws hold for all of them.
SWEPT = {
    *("lrr+pilot", "lrr+snip", "pilot+wr", "imp+synflow", "signin+synflow"),
    *("rigl+signin", "signin+snip", "imp-rand", "lrr-rand", "lrr-nowarmup", "acdc"),
    *("imp", "set", "lrr-bn", "l1", "woodfisher", "grasp", "snip", "powerprop"),
    *("magnitude", "pilot-init"),
}
find_method("dense")  # fills the registry
ALL = [
    *METHODS,
    *(method for method in SUMS if all(part in METHODS for part in method.split("+"))),
]


@functools.cache
def digits() -> Data:
    return load_data("mnist5k")


def batches(epoch: int) -> list[tuple[Tensor, Tensor]]:
    """The batches of an epoch; they depend on its number alone."""
    return list(
        itertools.islice(
            digits().train.epoch(BATCH, train=True, seed=0, epoch=epoch), STEPS
        )
    )


def conv_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 7 * 7, 10),
    )


def prune_by_torch(model: nn.Sequential) -> None:
    """Zeros for a method that keeps those of others."""
    weights = [(model[i], "weight") for i in (0, 3, 7)]
    total = sum(layer.weight.numel() for layer, _ in weights)
    amount = total - kept_count(total, SPARSITY)
    prune.global_unstructured(weights, prune.L1Unstructured, amount=amount)
    sparsify_fx.fold_masks(model)


@dataclass
class Training:
    """A model in training, with everything that a checkpoint holds."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: sparsify_fx.Scheduler

    @staticmethod
    def start(method: str) -> Training:
        given: dict[str, Any] = {"batches": batches(0)[:2], "loss_fn": F.cross_entropy}
        model = conv_net()
        if isinstance(find_method(method).resolved().criterion, FindsSparsity):
            prune_by_torch(model)
        sparsify_fx.apply(model, method, sparsity=SPARSITY, seed=1, **given)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4
        )
        length = {
            "epochs": EPOCHS,
            "steps_per_epoch": STEPS,
            "learning_rate": CosineWarmup(1),
        }
        return Training(
            model, optimizer, sparsify_fx.Scheduler(model, optimizer, **length, **given)
        )  # type: ignore[arg-type]

    def epochs(self) -> Iterator[int]:
        """Train to the end, handing over after every epoch."""
        while not self.scheduler.finished:
            epoch, right = self.scheduler.step_count // STEPS, 0
            for inputs, labels in batches(epoch):
                self.optimizer.zero_grad()
                outputs = self.model(inputs)
                (F.cross_entropy(outputs, labels) + self.scheduler.penalty()).backward()
                right += int((outputs.argmax(1) == labels).sum())
                self.optimizer.step()
                if (self.scheduler.step_count + 1) % STEPS == 0 and hasattr(
                    self.scheduler, "observe"
                ):
                    self.scheduler.observe(accuracy=right / (STEPS * BATCH))
                self.scheduler.step()
            yield epoch + 1

    def save(self) -> bytes:
        stream = io.BytesIO()
        parts = (self.model, self.optimizer, self.scheduler)
        torch.save([part.state_dict() for part in parts], stream)
        return stream.getvalue()

    def load(self, saved: bytes) -> None:
        states = torch.load(io.BytesIO(saved), weights_only=True)
        for part, state in zip(
            (self.model, self.optimizer, self.scheduler), states, strict=True
        ):
            part.load_state_dict(state)


def budget(model: nn.Module) -> int:
    """Non-zeros asked for; all weights for a method without masks."""
    total = sum(program.theta().numel() for program in programs(model).values())
    masked = (
        require_plan(model).axes.schedule.initial(Budget(total, SPARSITY)) is not None
    )
    return kept_count(total, SPARSITY) if masked else total


@pytest.mark.cross_section("cs", "l0", "rigl", "str", "wr")
@pytest.mark.parametrize(
    "method",
    [*(each for each in ALL if each not in SWEPT), *swept(sorted(SWEPT & set(ALL)))],
)
def test_a_method_trains_resumes_merges_and_exports(
    method: str, tmp_path: Path
) -> None:
    training = Training.start(method)
    middle, saved = training.scheduler.epochs // 2, b""
    for epoch in training.epochs():
        if epoch == middle:
            saved = training.save()

    resumed = Training.start(method)
    resumed.load(saved)
    for _ in resumed.epochs():
        pass
    ends = training.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])

    model, kept = training.model, budget(training.model)
    assert training.scheduler.nonzeros() == kept
    masks = {name: program.current_mask() for name, program in programs(model).items()}
    assert sparsify_fx.merge(model) is model
    check_zeros(
        model,
        masks,
        kept,
        regrows=isinstance(find_method(method).resolved().schedule, RegrowEvery),
    )

    inputs, labels = (
        torch.cat(parts)
        for parts in zip(*digits().test.epoch(500, train=False), strict=True)
    )
    with torch.no_grad():
        outputs = model.eval()(inputs)
    assert (outputs.argmax(1) == labels).float().mean() > 0.5, "chance is 0.1"
    check_export(model, inputs, outputs, tmp_path / "model.onnx")


def check_zeros(
    model: nn.Module, masks: dict[str, Tensor | None], kept: int, regrows: bool
) -> None:
    """Pruned weights are zero to the bit; of the others hardly one is zero.

    A weight that was grown at random where its gradient is exactly zero (a dead unit, SET) stays at zero: up to 5 %.
    """
    left = 0
    for name, mask in masks.items():
        weight = model.get_parameter(name).detach()
        left += int((weight != 0).sum())
        if mask is not None:
            assert (weight[mask == 0].view(torch.int32) == 0).all(), (
                f"{name}: a pruned weight is not +0.0"
            )
    assert (0.95 if regrows else 0.98) * kept < left <= kept


def check_export(
    model: nn.Module, inputs: Tensor, expected: Tensor, path: Path
) -> None:
    """onnxruntime gives the same outputs and the same digits."""
    sparsify_fx.export(model, path, inputs[:1], verify=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    np.testing.assert_allclose(
        outputs, expected.numpy(), rtol=0, atol=1e-4 * float(expected.abs().max())
    )
    assert (outputs.argmax(1) == expected.numpy().argmax(1)).all()


def test_the_sums_of_the_papers_are_here_as_soon_as_their_parts_are() -> None:
    assert {
        "lrr+signin",
        "lrr+snip",
        "imp+synflow",
        "signin+snip",
        "signin+synflow",
    } <= set(ALL)
