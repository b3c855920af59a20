"""A session: the data, model, optimizer and scheduler of a configuration, and their state."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsify_fx.api import apply
from sparsify_fx.distributed.replicas import same_batches
from sparsify_fx.errors import CheckpointError, ConfigError
from sparsify_fx.initializations import INITIALIZATIONS
from sparsify_fx.programs.parameter_groups import ParameterGroups, parameter_groups
from sparsify_fx.scheduler.scheduler import Scheduler
from sparsify_fx.train.average import Average
from sparsify_fx.train.checks import (
    check_model,
    check_optimizer_state,
    check_parts,
    check_progress,
)
from sparsify_fx.train.config import TrainConfig
from sparsify_fx.train.data import open_data
from sparsify_fx.train.mixing import mixed
from sparsify_fx.train.older import in_groups
from sparsify_fx.train.optimizers import build_optimizer
from sparsify_fx.train.pretrained import load_pretrained
from sparsify_fx.train.processes import Processes, first_of_machine, processes_of
from sparsify_fx.train.scoring import scoring
from sparsify_fx.transfer import take_from
from sparsify_fx.zoo.data import Augment, Data, Part
from sparsify_fx.zoo.data.shares import shared_epoch
from sparsify_fx.zoo.models import ModelSpec, build_model

_LOG = logging.getLogger(__name__)


@dataclass
class Session:
    """Everything that one training works with; `config` is resolved."""

    config: TrainConfig
    data: Data
    model: nn.Module
    optimizer: Optimizer
    scheduler: Scheduler
    groups: ParameterGroups
    processes: Processes
    average: Average | None = None

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
        """This process's part of the batches of an epoch from number `start`, shuffled and augmented.

        All processes together have the batches of one, which depend on (seed, epoch) alone.
        """
        crop, flip = self.config.augment.crop_padding, self.config.augment.flip
        augment = Augment(crop, flip) if crop or flip else None
        batches = shared_epoch(
            self.data.train,
            self.config.batch_size,
            self.processes.share,
            train=True,
            seed=self.config.seed,
            epoch=epoch,
            augment=augment,
            start=start,
        )
        config = self.config
        if config.mixup or config.cutmix:
            batches = mixed(
                batches,
                self.data.num_classes,
                mixup=config.mixup,
                cutmix=config.cutmix,
                seed=config.seed,
                epoch=epoch,
                start=start,
                pieces=self.processes.own,
            )
        return self._laid_out(batches)

    def test_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's batches of the test set, in order."""
        return self._in_order(self.data.test)

    def validation_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The same of the images that are kept aside for validation."""
        assert self.data.validation is not None
        return self._in_order(self.data.validation)

    def _in_order(self, part: Part) -> Iterator[tuple[Tensor, Tensor]]:
        size, share = self.config.batch_size, self.processes.share
        return self._laid_out(shared_epoch(part, size, share, train=False))

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
            **({"average": self.average.state_dict()} if self.average else {}),
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

        if self.average is not None:
            check_parts(state, ("average",))
            self.average.load_state_dict(state["average"])

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
    processes = processes_of(config)
    with first_of_machine():
        data = open_data(config)

    # 1. The model as it starts. Parts of another run are taken on top of its own first weights, so those are kept.
    model = fresh_model(config, data)
    if config.pretrained is not None:
        _LOG.info("starting from the weights of %s", config.pretrained)
        load_pretrained(model, config.pretrained)
    model.to(config.device)
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    initial = (
        {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        if config.init_from
        else {}
    )

    # 2. Programs and first masks; some initializations need the masks, and what is taken from other runs comes on top.
    loss_fn, batches = scoring(config, data, processes)
    _LOG.info(
        "%s at sparsity %g for the model %s",
        config.method,
        config.sparsity,
        config.model,
    )
    # Every process scores what one process would, and so chooses its masks, to the bit.
    with same_batches():
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
            kernels=config.kernels,
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
    with same_batches():
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
    average = None if config.ema is None else Average(model, config.ema)
    return Session(
        config, data, model, optimizer, scheduler, groups, processes, average
    )


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
