"""`sparsify_fx.integrations.transformers` in the Trainer of Transformers."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
)
from transformers.trainer_utils import set_seed

import sparsify_fx
from sparsify_fx.errors import (
    CheckpointError,
    MethodError,
    SchedulerError,
    UnfinishedWarning,
)
from sparsify_fx.integrations.transformers import SparsifyCallback, save_pretrained
from tests.integrations.conftest import differences
from tests.integrations.test_transformers_trainer import STEPS, Sentences, arguments

pytestmark = pytest.mark.slow

EPOCHS = 6
WEIGHTS = 600
METHODS: dict[str, dict[str, Any]] = {
    "gmp": {"sparsity": 0.9},
    "l1": {"sparsity": 0.9},
    "lrr": {"sparsity": 0.36},
    "signin": {"sparsity": 0.9},
}


def bert() -> BertForSequenceClassification:
    """A plain model of Transformers."""
    set_seed(3)
    small = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    return BertForSequenceClassification(
        BertConfig(vocab_size=20, max_position_embeddings=5, num_labels=3, **small)
    )


def trainer(
    method: str,
    folder: Path,
    *others: TrainerCallback,
    given: dict[str, Any] | None = None,
    model: nn.Module | None = None,
    more: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[Trainer, SparsifyCallback]:
    callback = SparsifyCallback(method, **(METHODS.get(method, {}) | (given or {})))
    batches = STEPS * options.get("gradient_accumulation_steps", 1)
    epochs = options.pop("epochs", EPOCHS)
    made = Trainer(
        bert() if model is None and not more else model,
        arguments(folder, epochs, **options),
        train_dataset=Sentences(batches),
        eval_dataset=Sentences(1),
        callbacks=[*others, callback],
        **(more or {}),
    )
    return made, callback


def everything(made: Trainer, callback: SparsifyCallback) -> dict[str, Any]:
    assert callback.scheduler is not None
    return {
        "model": made.model.state_dict(),
        "optimizer": made.optimizer.state_dict(),
        "scheduler": callback.scheduler.state_dict(),
        "rates": [group["lr"] for group in made.optimizer.param_groups],
    }


def told_rates(made: Trainer) -> list[float]:
    history = made.state.log_history
    return [entry["learning_rate"] for entry in history if "learning_rate" in entry]


CASES: list[Any] = [
    ("l1", {"max_grad_norm": 0.5}),
    pytest.param(
        "lrr",
        {"warmup_steps": 0.2, "gradient_accumulation_steps": 2},
        marks=pytest.mark.sweep,
    ),
    pytest.param("gmp", {"bf16": True}, marks=pytest.mark.sweep),
    pytest.param("signin", {}, marks=pytest.mark.sweep),
]


@pytest.mark.parametrize(("method", "options"), CASES)
def test_a_training_is_exact_and_goes_on_to_the_same_bits(
    method: str,
    options: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made, callback = trainer(method, tmp_path, **options, save_steps=2)
    made.train()
    scheduler = callback.scheduler
    assert scheduler is not None
    assert scheduler.finished
    assert scheduler.steps == EPOCHS * STEPS
    assert scheduler.nonzeros() == round((1 - METHODS[method]["sparsity"]) * WEIGHTS)
    for stop in (6, 8, scheduler.steps):  # at the end of an epoch, amid one, at the end
        again = trainer(method, tmp_path, **options, save_strategy="no")
        again[0].train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{stop}"))
        assert differences(everything(*again), everything(made, callback)) == [], stop
    # The guard tensors of a rewritten model make no noise in the Trainer's savers and loaders.
    assert [r.message for r in caplog.records if "key" in r.message] == []


def test_the_rate_of_the_trainer_begins_anew_at_each_run(tmp_path: Path) -> None:
    """Linear down to 0 after a warm-up, three times: `lrr` rewinds it to the end of the warm-up."""
    made, _ = trainer("lrr", tmp_path, warmup_steps=0.25, epochs=8, save_strategy="no")
    made.train()
    rates = [round(rate / made.args.learning_rate, 3) for rate in told_rates(made)]
    # Three runs of eight steps; each rate is that of the middle of its step.
    assert rates == [0.25, 0.75, 0.917, 0.75, 0.583, 0.417, 0.25, 0.083] * 3
    plain, _ = trainer(
        "gmp",
        tmp_path,
        save_strategy="no",
        epochs=4,
        given={"schedule": {"name": "cubic", "every": 2}},
    )
    plain.train()
    assert told_rates(plain) == sorted(told_rates(plain), reverse=True)
    assert len(set(told_rates(plain))) == 12


def test_merged_saved_and_read_by_from_pretrained(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made, _ = trainer("gmp", tmp_path / "run", save_strategy="no", max_steps=16)
    made.train()
    save_pretrained(made.model, tmp_path / "beside")
    sparsify_fx.merge(made.model)
    merged = made.model.state_dict()
    made.save_model(str(tmp_path / "own"))
    for folder in ("beside", "own"):
        read = BertForSequenceClassification.from_pretrained(tmp_path / folder)
        assert differences(read.state_dict(), merged) == []
        assert read.config.sparsify_fx["method"] == "gmp"
        assert read.config.sparsify_fx["nonzeros"] == round(0.1 * WEIGHTS)
    assert set(merged) == set(bert().state_dict())
    messages = [r.message for r in caplog.records if r.levelno >= logging.WARNING]
    assert messages == []
    with pytest.raises(MethodError, match="was not prepared"):
        made.train()
    made, _ = trainer("gmp", tmp_path, save_strategy="no", given={"merge": True})
    made.train()
    assert made.model.config.sparsify_fx["sparsity"] == 0.9
    assert set(made.model.state_dict()) == set(merged)


class Scores(TrainerCallback):
    """Puts made-up scores in the place of the evaluation's: the best are those of unfinished states."""

    def __init__(self) -> None:
        self.scores = iter([0.1, 0.2, 0.9, 0.8, 0.5, 0.6])

    def on_evaluate(self, *_: Any, metrics: dict[str, float], **others: Any) -> None:
        metrics["eval_score"] = next(self.scores)


def test_only_finished_states_are_the_best(tmp_path: Path) -> None:
    early = EarlyStoppingCallback(early_stopping_patience=1)
    made, callback = trainer(
        "gmp",
        tmp_path,
        Scores(),
        early,
        given={"schedule": {"name": "cubic", "end": 0.7, "every": 1.5}},
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="score",
        greater_is_better=True,
    )
    made.train()
    assert made.state.global_step == EPOCHS * STEPS
    assert made.state.best_model_checkpoint is not None
    assert Path(made.state.best_model_checkpoint).name == "checkpoint-18"
    assert made.state.best_metric == 0.6
    assert callback.scheduler is not None
    assert callback.scheduler.at_sparsity


def test_what_cannot_be_is_told_in_words(tmp_path: Path) -> None:
    prepared = sparsify_fx.apply(bert(), "gmp", sparsity=0.5)
    with pytest.raises(
        MethodError, match=r"prepared by sparsify_fx.apply already \(gmp"
    ):
        trainer("gmp", tmp_path, model=prepared)
    with pytest.raises(MethodError, match="by another callback or by hand"):
        trainer("gmp", tmp_path, SparsifyCallback("signin"))
    model = bert()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(MethodError, match="optimizer that was built before"):
        trainer("gmp", tmp_path, model=model, more={"optimizers": (optimizer, None)})
    with pytest.raises(
        MethodError, match="with model_init, or a callback that was added later"
    ):
        trainer("gmp", tmp_path, more={"model_init": bert})[0].train()
    with pytest.raises(SchedulerError, match="12 runs, which take at least 12 epochs"):
        trainer("lrr", tmp_path, given={"sparsity": 0.9})[0].train()
    with pytest.raises(SchedulerError, match="is no function of the step"):
        trainer(
            "lrr",
            tmp_path,
            lr_scheduler_type="reduce_lr_on_plateau",
            eval_strategy="steps",
        )[0].train()


@pytest.mark.sweep
def test_checkpoints_of_other_trainings_are_refused(tmp_path: Path) -> None:
    trainer("gmp", tmp_path, save_steps=10)[0].train()
    folder = tmp_path / "checkpoint-10"
    with pytest.raises(SchedulerError, match="method: saved 'gmp', here 'set'"):
        trainer("set", tmp_path, given={"sparsity": 0.9})[0].train(str(folder))
    with pytest.raises(RuntimeError, match="of different methods"):
        trainer("signin", tmp_path)[0].train(str(folder))
    # From a folder that is elsewhere the Trainer does not tell: the callback is told, or refuses what is not of these
    # weights.
    shutil.copytree(folder, tmp_path / "moved" / "checkpoint-10")
    trainer("gmp", tmp_path / "other", save_steps=10, seed=7)[0].train()
    moved = str(tmp_path / "moved" / "checkpoint-10")
    with pytest.raises(CheckpointError, match="give the callback resume_from="):
        trainer("gmp", tmp_path / "other")[0].train(moved)
    trainer(
        "gmp", tmp_path / "other", given={"resume_from": moved}, save_strategy="no"
    )[0].train(moved)
    (folder / "sparsify_fx.pt").unlink()
    with pytest.raises(CheckpointError, match="after 10 steps"):
        trainer("gmp", tmp_path)[0].train(str(folder))


class Stop(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = True


@pytest.mark.sweep
def test_a_training_that_ends_early_is_told(tmp_path: Path) -> None:
    with pytest.warns(UnfinishedWarning, match="the Trainer has ended the training"):
        trainer("gmp", tmp_path, Stop(), save_strategy="no")[0].train()
