"""`sparsify_fx.integrations.accelerate` in loops with an Accelerator."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration, set_seed
from safetensors.torch import load_model
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import sparsify_fx
from sparsify_fx.errors import MethodError, SchedulerError
from sparsify_fx.integrations.accelerate import Sparsify
from tests.conftest import small_net
from tests.integrations.conftest import BATCH, dataset, differences, sgd

pytestmark = pytest.mark.slow

EPOCHS, WEIGHTS = 6, 792
METHODS: dict[str, dict[str, Any]] = {
    "gmp": {"sparsity": 0.9},
    "l1": {"sparsity": 0.9},
    "lrr": {"sparsity": 0.36},
}


class Script:
    """A script of the user, with the lines of this package; 5 batches, of which 2 make a step."""

    def __init__(
        self, method: str, follow: dict[str, Any] | None = None, **options: Any
    ) -> None:
        set_seed(5)
        # One for the process, which refuses another precision.
        AcceleratorState._reset_state(True)
        configuration = DataLoaderConfiguration(use_seedable_sampler=True)
        self.accelerator = Accelerator(
            cpu=True,
            dataloader_config=configuration,
            gradient_accumulation_steps=2,
            **options,
        )
        model = small_net()
        self.sparse = Sparsify(model, method, **METHODS[method])
        loader = DataLoader(dataset(5), batch_size=BATCH, shuffle=True)
        self.model, self.optimizer, self.loader = self.accelerator.prepare(
            model, sgd(model), loader
        )
        rate = "cosine-warmup" if method == "lrr" else None
        given = {"epochs": EPOCHS, "learning_rate": rate} | (follow or {})
        self.scheduler = self.sparse.follow(
            self.accelerator, self.optimizer, self.loader, **given
        )

    def train(self, start: int = 0, stop: int = EPOCHS) -> None:
        """The loop as it is without this package."""
        for epoch in range(start, stop):
            self.loader.set_epoch(epoch)
            for inputs, targets in self.loader:
                with self.accelerator.accumulate(self.model):
                    loss = F.cross_entropy(self.model(inputs), targets)
                    self.accelerator.backward(loss)
                    self.accelerator.clip_grad_norm_(self.model.parameters(), 0.5)
                    self.optimizer.step()
                    self.optimizer.zero_grad()

    def everything(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sparse": self.sparse.state_dict(),
            "rates": [group["lr"] for group in self.optimizer.param_groups],
        }


SWEPT = [pytest.param(method, marks=pytest.mark.sweep) for method in ("gmp", "lrr")]


@pytest.mark.parametrize("method", ["l1", *SWEPT])
def test_a_training_is_exact_and_goes_on_to_the_same_bits(
    method: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "accelerate")
    whole, first, second = Script(method), Script(method), Script(method)
    whole.train()
    assert whole.scheduler.steps == 3 * EPOCHS
    assert whole.scheduler.finished
    kept = round((1 - METHODS[method]["sparsity"]) * WEIGHTS)
    assert whole.scheduler.nonzeros() == kept
    first.train(stop=2)
    first.accelerator.save_state(str(tmp_path))
    torch.manual_seed(77)
    second.accelerator.load_state(str(tmp_path))
    assert differences(second.everything(), first.everything()) == []
    second.train(2)
    assert differences(second.everything(), whole.everything()) == []
    assert caplog.messages == []


@pytest.mark.parametrize(
    "precision", ["bf16", pytest.param("no", marks=pytest.mark.sweep)]
)
def test_the_merged_model_is_a_plain_one_in_the_savers_of_accelerate(
    precision: str, tmp_path: Path
) -> None:
    script = Script("l1", mixed_precision=precision)
    script.train()
    script.sparse.merge()
    script.accelerator.save_model(script.model, str(tmp_path))
    read = small_net()
    assert load_model(read, tmp_path / "model.safetensors") == (set(), [])
    weights = [p for p in read.parameters() if p.dim() > 1]
    assert sum(int(w.count_nonzero()) for w in weights) <= round(0.1 * WEIGHTS)


def test_the_penalty_is_that_of_a_loss_with_it() -> None:
    """Without clipping, which the loop does before the penalty is added."""
    found: list[dict[str, torch.Tensor]] = []
    for by_hand in (False, True):
        script = Script("l1")
        if by_hand:
            for optimizer in script.scheduler.optimizers:
                optimizer._optimizer_step_pre_hooks.clear()
        inputs, targets = next(iter(script.loader))
        for _ in range(2):
            with script.accelerator.accumulate(script.model):
                loss = F.cross_entropy(script.model(inputs), targets)
                script.accelerator.backward(
                    loss + script.scheduler.penalty() if by_hand else loss
                )
                script.optimizer.step()
        found.append(dict(script.model.named_parameters()))
    for name, parameter in found[0].items():
        torch.testing.assert_close(parameter, found[1][name])


def test_what_cannot_be_is_told_in_words(tmp_path: Path) -> None:
    prepared = sparsify_fx.apply(nn.Linear(8, 8), "gmp", sparsity=0.5)
    with pytest.raises(
        MethodError, match=r"prepared by sparsify_fx.apply already \(gmp"
    ):
        Sparsify(prepared, "gmp")
    with pytest.raises(MethodError, match="follow needs the length of the training"):
        Script("gmp", follow={"epochs": None})
    with pytest.raises(SchedulerError, match="brings the learning rate back"):
        Script("lrr", follow={"learning_rate": None})
    script = Script("gmp", follow={"epochs": None, "steps": 18})
    script.train(stop=1)
    script.accelerator.save_state(str(tmp_path))
    with pytest.raises(RuntimeError, match="the saved schedule is another one"):
        Script("lrr").accelerator.load_state(str(tmp_path))
    model = nn.Linear(8, 8)
    early = sgd(model)
    sparse = Sparsify(model, "signin")
    with pytest.raises(SchedulerError, match="no optimizer trains the rewritten"):
        sparse.follow(Accelerator(cpu=True), early, epochs=3, steps=9)
