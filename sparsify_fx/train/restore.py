"""The trained model of a run folder, merged, with inputs to check it on; the data set may be gone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.api import merge
from sparsify_fx.checkpoints.run_files import (
    CHECKPOINT,
    WEIGHTS,
    mask_key,
    read_tensors,
)
from sparsify_fx.errors import CheckpointError, SparsifyError
from sparsify_fx.train.config import TrainConfig
from sparsify_fx.train.data import open_data
from sparsify_fx.train.rebuild import at_checkpoint
from sparsify_fx.train.recipes import load_config
from sparsify_fx.train.run_folder import CONFIG, RunFolder, find_folder
from sparsify_fx.train.session import fresh_model
from sparsify_fx.train.task import task_of
from sparsify_fx.zoo.data import Data
from sparsify_fx.zoo.models import ModelSpec

# Random inputs at most, whatever the batch size: more of them would not prove more.
_MOST = 256


@dataclass(frozen=True)
class Trained:
    """A plain model on the CPU in eval mode, one batch of inputs, and in words what they are."""

    model: nn.Module
    inputs: Tensor
    config: TrainConfig
    inputs_are: str = ""


def load_trained(path: str | os.PathLike[str]) -> Trained:
    """What a run trained, from its folder, its checkpoint.pt (also of an unfinished run) or model.safetensors.

    Neither the data nor the scores that chose its masks are needed. Its inputs are test images where the data are
    there, else random ones.

    Raises CheckpointError for anything else.

    Example: `load_trained("runs/lrr-0123456789").model`.
    """
    folder = find_folder(path)
    # The folder may come from a machine with a GPU; exports and analyses read it wherever it is copied to.
    config = load_config(
        folder.path / CONFIG, values={"device": "cpu", "compile": False, "amp": False}
    )
    weights, state = _read(Path(path), folder)

    # 1. What the model is built for: the shapes of the weights help where neither folder nor data tell.
    data = _data(config)
    known = state["model"] if weights is None else weights
    task = task_of(folder, config, known, None if isinstance(data, str) else data)

    # 2. The model. Its fresh weights draw from the global generator, whose state belongs to the caller.
    with torch.random.fork_rng(devices=[]):
        model = fresh_model(config, task)
        # An unfinished run has factors and masks, not weights: they are merged as at the end of a training.
        if weights is None:
            model = merge(at_checkpoint(model, config.resolved(), state))
        else:
            _load(model, weights, folder)
    inputs, told = _inputs(config, task, data)
    return Trained(model.eval(), inputs, config, told)


def _read(
    given: Path, folder: RunFolder
) -> tuple[dict[str, Tensor] | None, dict[str, Any]]:
    """(merged weights, None for a run that has none yet; the newest checkpoint otherwise)."""
    if given.is_file() and given.suffix != ".safetensors" and given.name != CHECKPOINT:
        raise CheckpointError(
            f"{given} is no checkpoint; give {folder.path} or its {CHECKPOINT}"
        )
    if given.suffix == ".safetensors":
        return read_tensors(given), {}
    # The folder stands for its merged weights once it is finished: a run that is trained anew may still hold old ones.
    merged = folder.path / WEIGHTS
    if given.is_dir() and folder.result() is not None and merged.is_file():
        return read_tensors(merged), {}
    state = folder.checkpoint()
    if state is None:
        raise CheckpointError(
            f"{folder.path} has no {CHECKPOINT} yet; train first, with the same recipe"
        )
    if not isinstance(state.get("model"), dict):
        raise CheckpointError(
            f"{folder.path / CHECKPOINT} holds no state of the model; train again with --force"
        )
    return None, state


def _load(model: nn.Module, weights: dict[str, Tensor], folder: RunFolder) -> None:
    """Put the merged weights of a run into the plain model."""
    try:
        # States on the way, such as epoch-30.safetensors, hold masks too, and their weights are zero there already.
        masks = {mask_key(name) for name in weights}
        model.load_state_dict({k: v for k, v in weights.items() if k not in masks})
    except RuntimeError as error:
        raise CheckpointError(
            f"{folder.path}: these are not the weights of this run: {error}"
        ) from error


def _data(config: TrainConfig) -> Data | str:
    """The data of a run, or why they are not to be had; nothing is downloaded."""
    try:
        return open_data(config, download=False)
    except (SparsifyError, OSError) as error:
        # What follows the semicolon is a remedy for someone who wants to train, as nobody does here.
        return str(error).partition(";")[0]


def _inputs(
    config: TrainConfig, task: ModelSpec, data: Data | str
) -> tuple[Tensor, str]:
    """A batch of test images if the data are there and of the right kind, else random numbers; and which, in words."""
    shape = (task.in_channels, task.image_size, task.image_size)
    why = data
    # A folder of images may have changed since the run, or a file of one turned unreadable: all that is no reason not
    # to export, and the report says what the model was checked on instead.
    if not isinstance(data, str):
        try:
            images, _ = next(iter(data.test.epoch(config.batch_size, train=False)))
        except (SparsifyError, OSError) as error:
            why = str(error).partition(";")[0]
        else:
            if tuple(images.shape[1:]) == shape:
                return images, f"{len(images)} test images of {config.data}"
            why = f"its images are {list(images.shape[1:])} now"
    count = min(config.batch_size, _MOST)
    random = torch.randn(
        count, *shape, generator=torch.Generator().manual_seed(config.seed)
    )
    return random, f"{count} random inputs, as the data are not to be had ({why})"
