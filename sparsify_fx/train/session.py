"""A session: the data, model, optimizer and scheduler of a configuration, and their state."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsify_fx.api import apply
from sparsify_fx.errors import CheckpointError, ConfigError
from sparsify_fx.initializations import INITIALIZATIONS
from sparsify_fx.programs.parameter_groups import ParameterGroups, parameter_groups
from sparsify_fx.scheduler.scheduler import Scheduler
from sparsify_fx.train.checks import (
    check_model,
    check_optimizer_state,
    check_parts,
    check_progress,
)
from sparsify_fx.train.config import TrainConfig
from sparsify_fx.train.older import in_groups
from sparsify_fx.train.optimizers import build_optimizer
from sparsify_fx.transfer import take_from
from sparsify_fx.zoo.data import Augment, Data, load_data
from sparsify_fx.zoo.models import ModelSpec, build_model

_LOG = logging.getLogger(__name__)
# For criteria that look at data: it decides the masks, so runs with another number would be other runs.
_SCORING_BATCHES = 10


@dataclass
class Session:
    """Everything that one training works with; `config` is resolved."""

    config: TrainConfig
    data: Data
    model: nn.Module
    optimizer: Optimizer
    scheduler: Scheduler
    groups: ParameterGroups

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy with the configured label smoothing, in float32 under autocast too."""
        return F.cross_entropy(
            outputs.float(), targets, label_smoothing=self.config.label_smoothing
        )

    def autocast(self) -> torch.autocast:
        """bfloat16 for matrix products and convolutions when `amp` is on; nothing otherwise."""
        kind = torch.device(self.config.device).type
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=bool(self.config.amp))

    def training_batches(
        self, epoch: int, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The shuffled and augmented batches of an epoch from number `start`; they depend on (seed, epoch) alone."""
        crop, flip = self.config.augment.crop_padding, self.config.augment.flip
        augment = Augment(crop, flip) if crop or flip else None
        batches = self.data.train.epoch(
            self.config.batch_size,
            train=True,
            seed=self.config.seed,
            epoch=epoch,
            augment=augment,
            start=start,
        )
        return self._laid_out(batches)

    def test_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The test set in order."""
        return self._laid_out(self.data.test.epoch(self.config.batch_size, train=False))

    def _laid_out(
        self, batches: Iterator[tuple[Tensor, Tensor]]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches in the memory order of the model."""
        if not self.config.channels_last:
            return batches
        return (
            (x.contiguous(memory_format=torch.channels_last), y) for x, y in batches
        )

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain types: loadable with weights_only=True."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was taken; CheckpointError when it is damaged or belongs to another configuration."""
        # 1. What can be checked before anything is loaded.
        check_parts(state, ("optimizer", "scheduler"))
        check_optimizer_state(state["optimizer"])

        # 2. What no check foresees fails in torch's own loaders, in words that say nothing of checkpoints.
        self.load_model(state)
        try:
            state = in_groups(state, self.optimizer, self.model)
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
        except _MISFITS as error:
            raise _misfit(error) from error

        # 3. Whether the parts belong together shows only once all are there.
        check_progress(state, self.scheduler)

    def load_model(self, state: dict[str, Any]) -> None:
        """Load the model's part alone, as analyses do; CheckpointError as for `load_state_dict`."""
        check_parts(state, ("model",))
        check_model(state["model"], self.model)
        try:
            self.model.load_state_dict(state["model"])
        except _MISFITS as error:
            raise _misfit(error) from error


# What torch's loaders raise for states of another kind, which they index and compare without checking them first.
_MISFITS = (LookupError, ValueError, RuntimeError, TypeError, AttributeError)


def _misfit(error: Exception) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint does not fit its configuration ({error}); train again with --force"
    )


def build_session(config: TrainConfig) -> Session:
    """Data, model, optimizer and scheduler of `config`, all of them from its seed. Nothing is written.

    Raises the error of whatever does not fit (DataError, UnknownNameError, LayerError, ConfigError, ...).
    """
    config = config.resolved()
    data = open_data(config)

    # 1. The model as it starts. Parts of another run are taken on top of its own first weights, so those are kept.
    model = fresh_model(config, data).to(config.device)
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    initial = (
        {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        if config.init_from
        else {}
    )

    # 2. Programs and first masks; some initializations need the masks, and what is taken from other runs comes on top.
    loss_fn, batches = _scoring(config, data)
    _LOG.info(
        "%s at sparsity %g for the model %s",
        config.method,
        config.sparsity,
        config.model,
    )
    apply(
        model,
        config.method,
        sparsity=config.sparsity,
        batches=batches,
        loss_fn=loss_fn,
        include=config.include,
        exclude=config.exclude,
        seed=config.seed,
        storage=config.storage,
        **config.axes,
    )
    _initialize(config, model, after_apply=True)
    for source in config.init_from:
        _LOG.info("taking %s from %s", ", ".join(source.take), source.run)
        take_from(model, source.read(), source.take, init=initial)

    # 3. The optimizer, over the factors that are there now. The groups bring the weight decay, which differs between
    #    them, so it is no option any more.
    groups = parameter_groups(model, config.weight_decay())
    options = dict(config.optimizer.options)
    options.pop("weight_decay", None)
    optimizer = build_optimizer(
        groups, config.optimizer.name, config.optimizer.lr, options
    )
    scheduler = Scheduler(
        model,
        optimizer,
        epochs=config.epochs,
        steps_per_epoch=data.train.batches(config.batch_size, train=True),
        learning_rate=config.learning_rate.build(),
        batches=batches,
        loss_fn=loss_fn,
    )

    # Only the scheduler knows how many epochs all cycles have together; nothing has been written yet.
    late = [epoch for epoch in config.snapshots_at if epoch > scheduler.epochs]
    if late:
        raise ConfigError(
            f"snapshots_at: {late} is beyond the {scheduler.epochs} epochs of this training, cycles included"
        )
    return Session(config, data, model, optimizer, scheduler, groups)


def open_data(config: TrainConfig, *, download: bool = True) -> Data:
    """The data set of a resolved configuration, on its device; ConfigError when its augmentation does not fit."""
    place, root = torch.device(config.device), Path(config.data_root)
    data = load_data(
        config.data,
        root=root,
        device=place,
        image_size=config.image_size,
        download=download,
        workers=config.workers,
        prefetch=config.prefetch,
    )
    if config.augment.crop_padding > data.image_size:
        raise ConfigError(
            f"augment.crop_padding={config.augment.crop_padding} is more than an image, which has {data.image_size} "
            "pixels a side; 4 is usual for 32"
        )
    return data


def fresh_model(config: TrainConfig, task: Data | ModelSpec) -> nn.Module:
    """The model as it is before `apply`, with its initial weights, on the CPU: the same ones on every device."""
    # Built on the CPU whatever the device: a GPU's generator would draw other numbers from the same seed.
    torch.manual_seed(config.seed)
    model = build_model(
        config.model,
        num_classes=task.num_classes,
        in_channels=task.in_channels,
        image_size=task.image_size,
    )
    _initialize(config, model, after_apply=False)
    return model


def _initialize(config: TrainConfig, model: nn.Module, *, after_apply: bool) -> None:
    """Draw the weights, if the configured initialization comes at this time."""
    initialization = INITIALIZATIONS[config.init]
    # A generator of its own, so that the draws do not depend on how many numbers the model's constructor took.
    if initialization.after_apply == after_apply:
        initialization(model, torch.Generator().manual_seed(config.seed))


def compiled(session: Session) -> nn.Module:
    """The model to train with: `torch.compile`d when asked for. It shares all parameters with `session.model`."""
    if not session.config.compile:
        return session.model
    return cast(nn.Module, torch.compile(session.model))


def _scoring(config: TrainConfig, data: Data) -> tuple[Any, Any]:
    """(loss_fn, batches) for a criterion or a schedule that needs them, else (None, None)."""
    axes = config.find_method().resolved()
    needs = (*axes.criterion.needs, *axes.schedule.needs)
    loss_fn = F.cross_entropy if "loss_fn" in needs else None
    if "batches" not in needs:
        return loss_fn, None
    # Epoch 0 is none of those that are trained on, which count from 1: it spends no draw of theirs.
    epoch = data.train.epoch(config.batch_size, seed=config.seed, epoch=0, train=True)
    return loss_fn, list(itertools.islice(epoch, _SCORING_BATCHES))
