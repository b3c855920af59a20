"""Hugging Face's Trainer: the Scheduler as its learning-rate scheduler, or in a callback beside its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import set_seed

import sparsify_fx
from sparsify_fx.errors import LearningRateWarning
from sparsify_fx.scheduler.parts import parts_of
from tests.integrations.conftest import METHODS, differences, sgd

pytestmark = pytest.mark.slow

EPOCHS, STEPS, BATCH = 3, 3, 4


class Sentences(Dataset[Any]):
    """Random words, and labels that depend on the first."""

    def __init__(self, batches: int) -> None:
        self.words = torch.randint(
            0, 20, (batches * BATCH, 5), generator=torch.Generator().manual_seed(1)
        )

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.words[index], "labels": self.words[index, 0] % 3}


def loss_of(outputs: Any, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.logits, targets)


def prepared(method: str) -> nn.Module:
    set_seed(3)
    small = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    model = BertForSequenceClassification(
        BertConfig(vocab_size=20, max_position_embeddings=5, num_labels=3, **small)
    )
    options = {"sparsity": 0.5, **METHODS.get(method, {})}
    if "batches" in options:
        words = Sentences(1)
        options |= {
            "batches": [(words.words, words.words[:, 0] % 3)],
            "loss_fn": loss_of,
        }
    return sparsify_fx.apply(model, method, **options)


def arguments(folder: Path, epochs: int, **options: Any) -> TrainingArguments:
    known = {
        "output_dir": str(folder),
        "num_train_epochs": epochs,
        "per_device_train_batch_size": BATCH,
        "save_strategy": "steps",
        "save_steps": 1,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return TrainingArguments(**known | options)


class Penalty(TrainerCallback):
    """Adds the gradient of the penalty, once for each optimizer step."""

    def __init__(self, scheduler: sparsify_fx.Scheduler) -> None:
        self.scheduler = scheduler

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, **others: Any
    ) -> None:
        self.scheduler.penalty().backward()


def as_rate_scheduler(method: str, folder: Path, **options: Any) -> Trainer:
    """The documented way: the Trainer steps it, saves it and loads it."""
    model = prepared(method)
    optimizer = sgd(model)
    scheduler = sparsify_fx.Scheduler(
        model, optimizer, epochs=EPOCHS, steps_per_epoch=STEPS
    )
    data = Sentences(STEPS * options.get("gradient_accumulation_steps", 1))
    return Trainer(
        model,
        arguments(folder, scheduler.epochs, **options),
        train_dataset=data,
        eval_dataset=data,
        optimizers=(optimizer, scheduler),
        callbacks=[Penalty(scheduler)],
    )


class Sparse(TrainerCallback):
    """The other documented way: it is built on the loaded weights, and keeps its state beside the Trainer's."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def file(self, args: Any, state: Any) -> Path:
        return Path(args.output_dir) / f"checkpoint-{state.global_step}" / "sparse.pt"

    def on_train_begin(
        self, args: Any, state: Any, control: Any, **others: Any
    ) -> None:
        model, optimizer = others["model"], others["optimizer"]
        self.scheduler = sparsify_fx.Scheduler(
            model, optimizer, epochs=EPOCHS, steps_per_epoch=STEPS, **self.options
        )
        if state.global_step:
            self.scheduler.load_state_dict(torch.load(self.file(args, state)))

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.scheduler.step()

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        torch.save(self.scheduler.state_dict(), self.file(args, state))


def beside(
    method: str, folder: Path, learning_rate: Any = None, **options: Any
) -> Trainer:
    """A callback, with the Trainer's own AdamW and learning rate."""
    callback = Sparse(learning_rate=learning_rate)
    args = arguments(folder, EPOCHS, **options)
    return Trainer(
        prepared(method), args, train_dataset=Sentences(STEPS), callbacks=[callback]
    )


def scheduler_of(trainer: Trainer) -> sparsify_fx.Scheduler:
    callbacks = trainer.callback_handler.callbacks
    return next(
        callback.scheduler
        for callback in callbacks
        if isinstance(callback, (Sparse, Penalty))
    )


def everything(trainer: Trainer) -> dict[str, Any]:
    return {
        "model": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": scheduler_of(trainer).state_dict(),
        "rates": [group["lr"] for group in trainer.optimizer.param_groups],
        "told": [
            entry["learning_rate"]
            for entry in trainer.state.log_history
            if "learning_rate" in entry
        ],
    }


def check(make: Any, method: str, folder: Path, **options: Any) -> None:
    whole = make(method, folder, **options)
    whole.train()
    assert scheduler_of(whole).finished
    end, last = everything(whole), scheduler_of(whole).steps
    for stop in (
        STEPS,
        STEPS + 1,
        last,
    ):  # at the end of an epoch, amid one, at the end of all
        again = make(method, folder, **options | {"save_strategy": "no"})
        again.train(resume_from_checkpoint=str(folder / f"checkpoint-{stop}"))
        assert differences(everything(again), end) == [], f"resumed after {stop} steps"


@pytest.mark.cross_section("lrr")
@pytest.mark.parametrize("method", METHODS)
def test_a_training_that_goes_on_is_the_one_that_was_never_stopped(
    method: str, tmp_path: Path
) -> None:
    check(as_rate_scheduler, method, tmp_path)


@pytest.mark.cross_section("gmp")
@pytest.mark.parametrize("method", ["gmp", "acdc+signin"])
def test_a_callback_goes_on_beside_the_rate_of_the_trainer(
    method: str, tmp_path: Path
) -> None:
    check(beside, method, tmp_path)


def test_gradient_accumulation_counts_optimizer_steps(tmp_path: Path) -> None:
    check(as_rate_scheduler, "signin", tmp_path, gradient_accumulation_steps=2)


@pytest.mark.sweep
def test_a_penalty_resumes(tmp_path: Path) -> None:
    check(as_rate_scheduler, "l1", tmp_path)


def test_a_rate_that_the_trainer_sets_too_is_told_once(tmp_path: Path) -> None:
    trainer = beside("signin", tmp_path, learning_rate="cosine-warmup")
    with pytest.warns(
        LearningRateWarning, match="pass learning_rate=None to leave the rate"
    ) as told:
        trainer.train()
    assert [warning.category for warning in told] == [LearningRateWarning]


def test_without_a_rate_of_its_own_the_scheduler_leaves_that_of_the_trainer(
    tmp_path: Path,
) -> None:
    plain = Trainer(
        prepared("signin"), arguments(tmp_path, EPOCHS), train_dataset=Sentences(STEPS)
    )
    plain.train()
    told = [
        entry["learning_rate"]
        for entry in plain.state.log_history
        if "learning_rate" in entry
    ]
    trainer = beside("signin", tmp_path)
    trainer.train()
    assert everything(trainer)["told"] == told
    assert len(set(told)) == EPOCHS * STEPS, "linear, down to 0"


def test_the_best_model_is_that_of_its_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    best = {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "load_best_model_at_end": True,
        "seed": 1,
    }
    trainer = as_rate_scheduler(
        "signin", tmp_path, metric_for_best_model="loss", greater_is_better=True, **best
    )
    trainer.train()  # the highest loss is that of an early step
    folder = Path(str(trainer.state.best_model_checkpoint))
    step = int(folder.name.removeprefix("checkpoint-"))
    assert step < scheduler_of(trainer).steps
    assert {part.progress.step for part in parts_of(trainer.model)} == {step}
    saved = load_file(folder / "model.safetensors")
    assert (
        differences({key: trainer.model.state_dict()[key] for key in saved}, saved)
        == []
    )
    assert [
        record.message
        for record in caplog.records
        if "keys" in record.message or "shared" in record.message
    ] == []
