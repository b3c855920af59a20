"""The trained model of a run folder, merged, with real test inputs to check it on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsify_fx.api import merge
from sparsify_fx.errors import CheckpointError
from sparsify_fx.run_files import CHECKPOINT, read_tensors
from sparsify_fx.train.config import TrainConfig
from sparsify_fx.train.recipes import load_config
from sparsify_fx.train.run_folder import CONFIG, RunFolder, find_folder
from sparsify_fx.train.session import Session, build_session, fresh_model, open_data


@dataclass(frozen=True)
class Trained:
    """A plain model on the CPU in eval mode, and one batch of test inputs."""

    model: nn.Module
    inputs: Tensor
    config: TrainConfig


def load_trained(path: str | os.PathLike[str]) -> Trained:
    """Rebuild what a run trained, from its folder, its checkpoint.pt (also of an unfinished run) or model.safetensors.

    Raises CheckpointError for anything else, and DataError when its data is not there.

    Example: `load_trained("runs/lrr-0123456789").model`.
    """
    folder = find_folder(path)
    config = load_config(folder.path / CONFIG, values={"device": "cpu", "compile": False, "amp": False})
    given = Path(path)
    with torch.random.fork_rng(devices=[]):
        if given.suffix == ".safetensors":
            data = open_data(config)
            model = _with_weights(given, fresh_model(config, data))
        else:
            session = _at_checkpoint(given, folder, config)
            data, model = session.data, merge(session.model)
        inputs, _ = next(iter(data.test.epoch(config.batch_size, train=False)))
    return Trained(model.eval(), inputs, config)


def _at_checkpoint(given: Path, folder: RunFolder, config: TrainConfig) -> Session:
    """Apply the plan again and load the checkpoint."""
    if given.is_file() and given.name != CHECKPOINT:
        raise CheckpointError(f"{given} is no checkpoint; give {folder.path} or its {CHECKPOINT}")
    state = folder.checkpoint()
    if state is None:
        raise CheckpointError(f"{folder.path} has no {CHECKPOINT} yet; train first, with the same recipe")
    session = build_session(config.model_copy(update={"init_from": ()}))  # the checkpoint holds what was taken
    session.load_model(state)
    return session


def _with_weights(given: Path, model: nn.Module) -> nn.Module:
    """The plain model with the merged weights of a finished run."""
    try:
        model.load_state_dict(read_tensors(given))
    except RuntimeError as error:
        raise CheckpointError(f"{given} does not hold the weights of this run: {error}") from error
    return model
