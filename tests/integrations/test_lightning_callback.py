"""`sparsify_fx.integrations.lightning` in Lightning's own Trainer."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    ModelCheckpoint,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

import sparsify_fx
from sparsify_fx.errors import (
    CheckpointError,
    MethodError,
    SchedulerError,
    StepCountWarning,
    UnfinishedWarning,
)
from sparsify_fx.integrations.lightning import SparsifyCallback
from tests.conftest import batch, small_net
from tests.integrations.conftest import BATCH, STEPS, dataset, differences, sgd
from tests.integrations.test_lightning import Loader
from tests.scheduler.test_resume import alternating

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore::UserWarning:lightning", "ignore:Checkpoint directory"
    ),
]
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

EPOCHS = 6
WEIGHTS = 792
METHODS: dict[str, dict[str, Any]] = {
    "gmp": {"sparsity": 0.9},
    "l1": {"sparsity": 0.9},
    "lrr": {"sparsity": 0.36, "learning_rate": "cosine-warmup"},
    "acdc+signin": {**alternating(0.2, 0.4), "sparsity": 0.5},
}


def swept(*values: Any) -> list[Any]:
    """Parameters of which the slow tests have one like them."""
    return [pytest.param(value, marks=pytest.mark.sweep) for value in values]


class Classifier(lightning.LightningModule):
    """A module as users write it: nothing of sparsity in it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = small_net()

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, images: Any, index: int) -> Tensor:
        return F.cross_entropy(self(images[0]), images[1])

    def configure_optimizers(self) -> Any:
        return sgd(self)


def trainer(
    callback: SparsifyCallback, *others: Any, epochs: int = EPOCHS, **options: Any
) -> lightning.Trainer:
    options = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": bool(others),
        "num_sanity_val_steps": 0,
        "max_epochs": epochs,
    } | options
    return lightning.Trainer(callbacks=[*others, callback], **options)


def fit(
    method: str,
    *others: Any,
    start: Path | None = None,
    model: lightning.LightningModule | None = None,
    given: dict[str, Any] | None = None,
    data: Any = None,
    validation: Any = None,
    **options: Any,
) -> tuple[Any, SparsifyCallback, lightning.Trainer]:
    callback = SparsifyCallback(method, **(METHODS.get(method, {}) | (given or {})))
    model = Classifier() if model is None else model
    made = trainer(callback, *others, **options)
    accumulated = options.get("accumulate_grad_batches", 1)
    made.fit(
        model,
        Loader(STEPS * accumulated) if data is None else data,
        validation,
        ckpt_path=start,
    )
    return model, callback, made


def everything(
    model: nn.Module, callback: SparsifyCallback, made: lightning.Trainer
) -> dict[str, Any]:
    return {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in made.optimizers],
        "callback": callback.state_dict(),
        "rates": [g["lr"] for o in made.optimizers for g in o.param_groups],
    }


def every_step(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(
        folder, filename="{step}", every_n_train_steps=1, save_top_k=-1
    )


@pytest.mark.parametrize("method", ["l1", *swept("gmp", "lrr", "acdc+signin")])
def test_a_training_is_exact_and_goes_on_to_the_same_bits(
    method: str, tmp_path: Path
) -> None:
    options = {"gradient_clip_val": 0.5} if method == "l1" else {}
    options |= {"accumulate_grad_batches": 2} if method == "gmp" else {}
    whole = fit(method, every_step(tmp_path), **options)
    scheduler = whole[1].scheduler
    assert scheduler is not None
    assert scheduler.finished
    assert scheduler.steps == EPOCHS * STEPS
    assert scheduler.nonzeros() == round((1 - METHODS[method]["sparsity"]) * WEIGHTS)
    for stop in (STEPS, STEPS + 1, scheduler.steps):
        start = tmp_path / f"step={stop}.ckpt"
        again = fit(method, start=start, **options)
        assert differences(everything(*again), everything(*whole)) == [], stop


def test_the_merged_model_is_plain_and_exported(tmp_path: Path) -> None:
    model, callback, _ = fit("gmp", given={"merge": True})
    assert set(model.state_dict()) == set(Classifier().state_dict())
    weights = [p for p in model.parameters() if p.dim() > 1]
    assert sum(int(w.count_nonzero()) for w in weights) == round(0.1 * WEIGHTS)
    report = sparsify_fx.export(model.net, tmp_path / "net.onnx", batch(0)[:1])
    assert report.nonzeros == round(0.1 * WEIGHTS)
    with pytest.raises(MethodError, match="has trained the model already"):
        trainer(callback).fit(model, Loader(STEPS))


class ByHand(Classifier):
    """The penalty added to the loss by the user, as without a callback."""

    def training_step(self, images: Any, index: int) -> Tensor:
        callback = next(
            c for c in self.trainer.callbacks if isinstance(c, SparsifyCallback)
        )
        scheduler = callback.scheduler
        assert scheduler is not None
        return super().training_step(images, index) + scheduler.penalty()


def test_the_penalty_is_that_of_a_loss_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"gradient_clip_val": 0.5, "epochs": 2, "data": DataLoader(dataset(), 8)}
    model, _, _ = fit("l1", **options)
    monkeypatch.setattr(SparsifyCallback, "on_before_optimizer_step", lambda *_: None)
    by_hand, _, _ = fit("l1", model=ByHand(), **options)
    without, _, _ = fit("l1", **options)
    found = dict(model.named_parameters())
    for name, parameter in by_hand.named_parameters():
        torch.testing.assert_close(found[name], parameter)
    assert differences(dict(without.named_parameters()), found) != []


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        while True:
            yield tuple(tensor[0] for tensor in batch(1))


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_steps": 16}, 15),  # five epochs and a step, which is trained on
        ({"precision": "bf16-mixed", "gradient_clip_val": 0.1}, 18),
        pytest.param(
            {"max_steps": 16, "epochs": -1, "data": DataLoader(Endless(), BATCH)},
            16,
            marks=pytest.mark.sweep,
        ),
        pytest.param(
            {"limit_train_batches": 2, "data": DataLoader(dataset(), BATCH)},
            12,
            marks=pytest.mark.sweep,
        ),
        pytest.param({"given": {"steps": 9}}, 9, marks=pytest.mark.sweep),
    ],
    ids=lambda value: str(value)[:25],
)
def test_the_schedule_fits_into_the_training(
    options: dict[str, Any], steps: int, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", StepCountWarning)
        _, callback, made = fit("gmp", every_step(tmp_path), **options)
    assert callback.scheduler is not None
    assert callback.scheduler.steps == steps
    assert callback.scheduler.finished
    assert callback.scheduler.nonzeros() == round(0.1 * WEIGHTS)
    assert made.global_step >= steps


class TwoOptimizers(Classifier):
    """Manual optimization of the two halves of the net, or of the net and a part that is none of `apply`'s."""

    def __init__(self, apart: bool) -> None:
        super().__init__()
        self.automatic_optimization, self.apart = False, apart
        self.other = nn.Linear(2, 2)

    def configure_optimizers(self) -> Any:
        own = list(self.net.parameters())
        first, second = (
            (own, list(self.other.parameters())) if self.apart else (own[:3], own[3:])
        )
        return [torch.optim.SGD(first, lr=0.1), torch.optim.AdamW(second, lr=0.01)]

    def training_step(self, images: Any, index: int) -> None:
        loss = super().training_step(images, index) + self.other.weight.sum() ** 2
        optimizers: Any = self.optimizers()
        self.manual_backward(loss)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("apart", [False, *swept(True)])
def test_two_optimizers_of_a_manual_optimization(apart: bool) -> None:
    given = {"module": "net"} if apart else {"exclude": "other"}
    _, callback, made = fit("l1", model=TwoOptimizers(apart), given=given)
    assert callback.scheduler is not None
    assert len(callback.scheduler.optimizers) == 2 - apart
    assert callback.scheduler.finished
    assert callback.scheduler.nonzeros() == round(0.1 * WEIGHTS)
    assert made.global_step == 2 * callback.scheduler.steps
    with pytest.raises(SchedulerError, match="counts the steps of all 2 optimizers"):
        fit("gmp", model=TwoOptimizers(apart), given=given, max_steps=20)


@pytest.mark.sweep
@pytest.mark.parametrize("whole", [True, False])
def test_a_compiled_module(whole: bool) -> None:
    model = Classifier()
    if not whole:
        model.net = torch.compile(model.net, backend="eager")  # type: ignore[assignment]
    given = torch.compile(model, backend="eager") if whole else model
    _, callback, _ = fit(
        "gmp", model=given, epochs=2, given={"schedule": {"name": "cubic", "every": 2}}
    )  # type: ignore[arg-type]
    assert callback.scheduler is not None
    assert callback.scheduler.nonzeros() == round(0.1 * WEIGHTS)
    sparsify_fx.merge(model)
    assert torch.isfinite(model(batch(0)[0])).all()


class Validated(Classifier):
    def on_train_start(self) -> None:
        self.scores = iter([0.1, 0.2, 0.9, 0.8, 0.5, 0.6])

    def validation_step(self, images: Any, index: int) -> None:
        self.log("score", next(self.scores))


def test_only_finished_states_are_among_the_best(tmp_path: Path) -> None:
    """Scores 0.1, 0.2, 0.9, 0.8, 0.5, 0.6: the highest are those of unfinished states, and patience 1 would stop."""
    data = DataLoader(dataset(1), BATCH)
    best = ModelCheckpoint(
        tmp_path, monitor="score", mode="max", save_top_k=2, filename="{epoch}"
    )
    early = EarlyStopping("score", mode="max", patience=1)
    given = {"schedule": {"name": "cubic", "end": 0.7, "every": 1.5}}
    _, callback, made = fit(
        "gmp", best, early, model=Validated(), given=given, validation=data
    )
    assert made.global_step == EPOCHS * STEPS
    assert callback.scheduler is not None
    assert callback.scheduler.at_sparsity
    kept = {Path(path).stem for path in best.best_k_models}
    assert kept == {"epoch=4", "epoch=5"}
    assert Path(best.best_model_path).stem == "epoch=5"
    assert "check_monitor_top_k" not in vars(best)
    assert "on_validation_end" not in vars(early)
    # Before, the best of the unfinished are kept, so that the training can go on from them.
    assert {path.stem for path in tmp_path.glob("*.ckpt")} >= {"epoch=2", "epoch=3"}


def refused(kind: type[Exception], words: str, *given: Any, **options: Any) -> None:
    with pytest.raises(kind, match=words):
        fit(*given, **options)


def test_what_cannot_be_is_told_in_words(tmp_path: Path) -> None:
    prepared = Classifier()
    sparsify_fx.apply(prepared, "gmp", sparsity=0.5)
    refused(
        MethodError,
        r"prepared by sparsify_fx.apply already \(gmp\)",
        "gmp",
        model=prepared,
    )
    refused(SchedulerError, "no end that could be planned", "gmp", epochs=-1)
    refused(
        SchedulerError,
        "brings the learning rate back",
        "lrr",
        given={"learning_rate": None},
    )
    refused(
        SchedulerError,
        "12 runs, which take at least 12 epochs.*the trainer makes 6",
        "lrr",
        given={"sparsity": 0.9},
    )
    refused(
        MethodError,
        "module='nett' is no module of Classifier, which has net",
        "gmp",
        given={"module": "nett"},
    )
    refused(
        SchedulerError,
        "GradientAccumulationScheduler changes how many",
        "gmp",
        GradientAccumulationScheduler({0: 1, 2: 2}),
    )
    one = SparsifyCallback("gmp")
    with pytest.raises(
        RuntimeError, match="more than one stateful callback of type `SparsifyCallback`"
    ):
        trainer(one, SparsifyCallback("gmp"))


class Late(Classifier):
    def setup(self, stage: str) -> None:
        self.head = nn.Linear(10, 10)


class WithRate(Classifier):
    def configure_optimizers(self) -> Any:
        optimizer = sgd(self)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


@pytest.mark.sweep
def test_layers_that_come_late_and_a_second_rate_are_told() -> None:
    refused(
        MethodError,
        "1 layers were made after the callback was set up, for instance head",
        "gmp",
        model=Late(),
    )
    _, callback, _ = fit("gmp", model=WithRate())
    assert callback.scheduler is not None
    assert callback.scheduler.optimizer.param_groups[0]["lr"] < 1e-6
    refused(
        SchedulerError,
        "configure_optimizers returns a StepLR",
        "gmp",
        model=WithRate(),
        given={"learning_rate": "constant"},
    )


@pytest.mark.sweep
def test_checkpoints_of_other_trainings_are_refused(tmp_path: Path) -> None:
    fit("gmp", every_step(tmp_path), epochs=4)
    start = tmp_path / "step=4.ckpt"
    refused(
        SchedulerError,
        "the saved schedule is another one: .*method: saved 'gmp', here 'set'",
        "set",
        start=start,
        epochs=4,
    )
    refused(RuntimeError, "different methods", "signin", start=start, epochs=4)
    refused(SchedulerError, "epochs: saved 4, here 6", "gmp", start=start)
    options: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "max_epochs": 1,
    }
    plain = lightning.Trainer(**options)
    plain.fit(Classifier(), Loader(STEPS))
    plain.save_checkpoint(tmp_path / "plain.ckpt")
    refused(
        CheckpointError,
        "saved by a training without this callback",
        "gmp",
        start=tmp_path / "plain.ckpt",
    )
    # Without the callback the weights are no plain module's.
    with pytest.raises(RuntimeError, match="rewritten model"):
        lightning.Trainer(**options).fit(Classifier(), Loader(STEPS), ckpt_path=start)


@pytest.mark.sweep
def test_a_training_that_ends_early_is_told() -> None:
    with pytest.warns(
        UnfinishedWarning,
        match="Lightning has ended the training before its schedule: gmp",
    ):
        fit("gmp", given={"steps": 30})
    with pytest.warns(UnfinishedWarning, match="no Scheduler has begun"):
        fit("gmp", fast_dev_run=True)


class Interrupted(Classifier):
    at = 7

    def on_train_batch_start(self, images: Any, index: int) -> None:
        if self.trainer.global_step == self.at:
            self.at = -1
            raise RuntimeError("no power")


def test_fit_is_called_again_after_an_interruption(tmp_path: Path) -> None:
    callback, model = SparsifyCallback("gmp", **METHODS["gmp"]), Interrupted()
    made = trainer(callback, every_step(tmp_path), num_sanity_val_steps=0)
    with pytest.raises(RuntimeError, match="no power"):
        made.fit(model, Loader(STEPS))
    made.fit(model, Loader(STEPS), ckpt_path=tmp_path / "step=7.ckpt")
    whole = fit("gmp", epochs=EPOCHS)
    assert differences(everything(model, callback, made), everything(*whole)) == []
