"""Lightning 2.6: `Trainer.fit` and `fit(ckpt_path=...)`, the Scheduler built in each of the places that suit it."""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

import sparsify_fx
from sparsify_fx.errors import LearningRateWarning, StepCountWarning
from tests.integrations.conftest import (
    BATCH,
    EPOCHS,
    METHODS,
    STEPS,
    dataset,
    differences,
    loss_of,
    prepared,
    sgd,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:Checkpoint directory"
    ),  # the folder of the first fit, on purpose
]
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Loader:
    """Shuffled batches, with a state: Lightning goes on amid an epoch only where the loader does."""

    def __init__(self, batches: int) -> None:
        self.loader = DataLoader(dataset(batches), batch_size=BATCH)
        self.epoch = self.done = 0

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        if self.done == len(self):
            self.epoch, self.done = self.epoch + 1, 0
        order = torch.randperm(
            len(self), generator=torch.Generator().manual_seed(self.epoch)
        ).tolist()
        batches = list(self.loader)
        while self.done < len(self):
            self.done += 1
            yield batches[order[self.done - 1]]

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.done = state["epoch"], state["done"]


class Base(lightning.LightningModule):
    """A net of the user's, without the Scheduler."""

    sparse: sparsify_fx.Scheduler

    def __init__(self, method: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = prepared(method)

    def schedule(self, optimizer: Any, **options: Any) -> sparsify_fx.Scheduler:
        return sparsify_fx.Scheduler(
            self.net, optimizer, epochs=EPOCHS, steps_per_epoch=STEPS, **options
        )

    def training_step(self, images: Any, index: int) -> Tensor:
        return loss_of(self.net, *images, self.sparse)


class AsRateScheduler(Base):
    """The documented way: Lightning steps it, saves it and loads it."""

    def configure_optimizers(self) -> Any:
        optimizer = sgd(self.net)
        self.sparse = self.schedule(optimizer)
        return [optimizer], [{"scheduler": self.sparse, "interval": "step"}]

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        scheduler.step()


class ByHooks(Base):
    """The optimizer step and the checkpoint by hooks; which are called before the Scheduler is there."""

    saved = None

    def configure_optimizers(self) -> Any:
        return sgd(self.net)

    def build(self) -> None:
        self.sparse = self.schedule(self.optimizers())
        if self.saved is not None:
            self.sparse.load_state_dict(self.saved)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.sparse.step()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["sparse"] = self.sparse.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.saved = checkpoint["sparse"]


class OnFitStart(ByHooks):
    """Weights are loaded, the optimizer's state is not yet."""

    def on_fit_start(self) -> None:
        self.build()


class OnTrainStart(ByHooks):
    """Weights and the optimizer's state are loaded."""

    def on_train_start(self) -> None:
        self.build()


class InInit(ByHooks):
    """Nothing is loaded."""

    def __init__(self, method: str) -> None:
        super().__init__(method)
        self.optimizer = sgd(self.net)
        self.sparse = self.schedule(self.optimizer)

    def configure_optimizers(self) -> Any:
        return self.optimizer

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.sparse.load_state_dict(checkpoint["sparse"])


class Manual(Base):
    """Manual optimization with two optimizers; Lightning saves and loads the Scheduler alone."""

    def __init__(self, method: str) -> None:
        super().__init__(method)
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        first, second = (
            list(self.net.parameters())[::2],
            list(self.net.parameters())[1::2],
        )
        optimizers = [
            torch.optim.SGD(first, lr=0.1, momentum=0.9),
            torch.optim.AdamW(second, lr=0.01),
        ]
        self.sparse = self.schedule(optimizers)
        return optimizers, [self.sparse]

    def training_step(self, images: Any, index: int) -> None:
        loss = super().training_step(images, index)
        optimizers: Any = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers:
            optimizer.step()
        scheduler: Any = self.lr_schedulers()
        scheduler.step()


def fit(
    model: Base, folder: Path, stop: int = -1, start: Path | None = None, **options: Any
) -> lightning.Trainer:
    """Train to the end of the schedule, or until `stop` optimizer steps; checkpoints lie in `folder`."""
    every = ModelCheckpoint(
        folder, filename="{step}", every_n_train_steps=1, save_top_k=-1
    )
    accumulation = options.get("accumulate_grad_batches", 1)
    runs = (
        2
        if any("lrr" in str(plan.method) for plan in sparsify_fx.plan.plans_of(model))
        else 1
    )
    trainer = lightning.Trainer(
        max_epochs=EPOCHS * runs,
        max_steps=stop,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[every],
        default_root_dir=folder,
        **options,
    )
    trainer.fit(model, Loader(STEPS * accumulation), ckpt_path=start)
    return trainer


def everything(model: Base, trainer: lightning.Trainer) -> dict[str, Any]:
    return {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "scheduler": model.sparse.state_dict(),
        "rates": [
            group["lr"]
            for optimizer in trainer.optimizers
            for group in optimizer.param_groups
        ],
    }


WAYS = [AsRateScheduler, OnFitStart, OnTrainStart, InInit, Manual]
CASES = [(method, AsRateScheduler) for method in METHODS]
CASES += [
    (method, way)
    for method, way in itertools.product(["lrr", "signin"], WAYS)
    if way is not AsRateScheduler
]


# Lightning would have the weights before the optimizer step with the optimizer's state after it.
@pytest.mark.cross_section(
    "signin-OnFitStart",
    "lrr-Manual",
    "gmp-AsRateScheduler",
    "signin-InInit",
    "lrr-OnTrainStart",
)
@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")
@pytest.mark.parametrize(
    ("method", "way"), CASES, ids=lambda value: getattr(value, "__name__", value)
)
def test_a_fit_that_goes_on_is_the_one_that_was_never_stopped(
    method: str, way: type[Base], tmp_path: Path
) -> None:
    whole = way(method)
    trainer = fit(whole, tmp_path)
    end, each = (
        everything(whole, trainer),
        len(trainer.optimizers),
    )  # Lightning counts the steps of all of them
    assert whole.sparse.finished
    for stop in (
        STEPS,
        STEPS + 1,
        whole.sparse.steps,
    ):  # at the end of an epoch, amid one, at the end of all
        again = way(method)
        trainer = fit(again, tmp_path, start=tmp_path / f"step={stop * each}.ckpt")
        assert differences(everything(again, trainer), end) == [], (
            f"resumed after {stop} steps"
        )


@pytest.mark.parametrize("way", [AsRateScheduler, OnTrainStart])
def test_gradient_accumulation_counts_optimizer_steps(
    way: type[Base], tmp_path: Path
) -> None:
    whole = way("lrr")
    trainer = fit(whole, tmp_path, accumulate_grad_batches=2)
    assert whole.sparse.finished
    again = way("lrr")
    other = fit(
        again, tmp_path, start=tmp_path / "step=4.ckpt", accumulate_grad_batches=2
    )
    assert differences(everything(again, other), everything(whole, trainer)) == []


def test_mixed_precision_resumes(tmp_path: Path) -> None:
    whole, again = AsRateScheduler("signin"), AsRateScheduler("signin")
    end = everything(whole, fit(whole, tmp_path, precision="bf16-mixed"))
    trainer = fit(
        again, tmp_path, start=tmp_path / "step=5.ckpt", precision="bf16-mixed"
    )
    assert differences(everything(again, trainer), end) == []


def test_the_optimizer_of_lightning_is_the_one_within(tmp_path: Path) -> None:
    model = OnTrainStart("gmp")
    trainer = fit(model, tmp_path, stop=1)
    assert model.sparse.optimizer is trainer.optimizers[0]


class OncePerEpoch(AsRateScheduler):
    """Without `"interval": "step"`."""

    def configure_optimizers(self) -> Any:
        (optimizer,), (config,) = super().configure_optimizers()
        return [optimizer], [config["scheduler"]]


def test_a_scheduler_that_is_called_once_an_epoch_is_noticed(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", StepCountWarning)
        fit(OncePerEpoch("gmp"), tmp_path)
    messages = [
        str(warning.message) for warning in told if warning.category is StepCountWarning
    ]
    assert sorted(message[:43] for message in messages) == [
        "the optimizer made 3 steps since the last c",
        "the state of the Scheduler is saved between",
    ]


class AfterTheCheckpoint(ByHooks):
    """`on_train_batch_end` of the module comes after that of the callbacks, ModelCheckpoint among them."""

    def on_train_start(self) -> None:
        self.build()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        lightning.LightningModule.optimizer_step(self, *args, **kwargs)

    def on_train_batch_end(self, *args: Any) -> None:
        self.sparse.step()


def test_a_state_that_is_saved_before_the_step_of_the_scheduler_is_told(
    tmp_path: Path,
) -> None:
    with pytest.warns(
        StepCountWarning, match="saved between an optimizer step and the scheduler.step"
    ):
        fit(AfterTheCheckpoint("gmp"), tmp_path)


class OwnRate(Base):
    """A learning-rate schedule of the user's, and the Scheduler stepped by a hook."""

    rate: Any = None

    def configure_optimizers(self) -> Any:
        optimizer = sgd(self.net)
        own = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * STEPS)
        self.sparse, self.rates = self.schedule(optimizer, learning_rate=self.rate), []
        return [optimizer], [{"scheduler": own, "interval": "step"}]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.rates.append(self.sparse.optimizer.param_groups[0]["lr"])
        self.sparse.step()


def test_the_users_own_schedule_stays_or_is_told(tmp_path: Path) -> None:
    model = OwnRate("signin")
    fit(model, tmp_path)
    assert model.rates == sorted(model.rates, reverse=True)
    assert len(set(model.rates)) == EPOCHS * STEPS
    model = OwnRate("signin")
    model.rate = "constant"
    with pytest.warns(
        LearningRateWarning, match="something else changes it too"
    ) as told:
        fit(model, tmp_path)
    assert sum(warning.category is LearningRateWarning for warning in told) == 1
