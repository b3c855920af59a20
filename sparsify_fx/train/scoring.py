"""What criteria of a training score on: some batches of its data, and its loss."""

from __future__ import annotations

import itertools
from typing import Any

import torch.nn.functional as F

from sparsify_fx.train.config import TrainConfig
from sparsify_fx.train.processes import Processes
from sparsify_fx.zoo.data import Data

# For criteria that look at data: it decides the masks, so runs with another number would be other runs.
_SCORING_BATCHES = 10


def scoring(config: TrainConfig, data: Data, processes: Processes) -> tuple[Any, Any]:
    """(loss_fn, batches) for a criterion or a schedule that needs them, else (None, None)."""
    axes = config.find_method().resolved()
    needs = (*axes.criterion.needs, *axes.schedule.needs)
    loss_fn = F.cross_entropy if "loss_fn" in needs else None
    if "batches" not in needs:
        return loss_fn, None
    # Epoch 0 is none of those that are trained on, which count from 1: it spends no draw of theirs.
    epoch = data.train.epoch(config.batch_size, seed=config.seed, epoch=0, train=True)
    batches = list(itertools.islice(epoch, _SCORING_BATCHES))
    # As they are trained on: batch norm, and the memory of a device, take no more than a micro-batch.
    return loss_fn, processes.micro_batches(batches) if processes.fixed else batches
