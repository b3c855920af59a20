"""A run as the analyses see it: its states, its model and its data."""

from __future__ import annotations

import copy
import math
import os
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsify_fx.checkpoints.run_files import (
    WEIGHTS,
    State,
    cycle_numbers,
    mask_key,
    read_state,
)
from sparsify_fx.errors import AnalysisError, CheckpointError
from sparsify_fx.passes import Merge
from sparsify_fx.programs.program import unmarked
from sparsify_fx.train.config import TrainConfig
from sparsify_fx.train.donors import check_data
from sparsify_fx.train.recipes import load_config
from sparsify_fx.train.run_folder import CONFIG, find_folder
from sparsify_fx.train.session import Session, build_session
from sparsify_fx.transfer import masked_state_dict

Batch = tuple[Tensor, Tensor]


class Run:
    """A run folder, finished or not, read but never written. Everything is in float32, without compile or amp.

    Attributes:
        label: the method, or the name of the folder where several runs share a method.
        config: its configuration, on the device of the analyses.

    Raises CheckpointError for a folder that is not one of a run, or holds no checkpoint yet.
    """

    def __init__(self, path: str | os.PathLike[str], *, device: str = "cpu") -> None:
        self.folder = find_folder(path)
        self.path = self.folder.path
        self.config: TrainConfig = load_config(
            self.path / CONFIG,
            values={"device": device, "compile": False, "amp": False},
        ).resolved()
        self.label = self.config.method
        # Read at once, so that a folder that is no run is told before any analysis starts.
        state = self.folder.checkpoint()
        if state is None:
            raise CheckpointError(
                f"{self.path} has no checkpoint yet; train it first: sparsify-fx train {self.path}/{CONFIG}"
            )
        self._checkpoint = state

    @cached_property
    def weights(self) -> tuple[str, ...]:
        """Names of the prunable weights, in module order; tied ones once, by the first name."""
        # Read from the checkpoint, so that no model has to be built for the names. Tied weights are told
        # by where their tensors lie: `torch.load` keeps the sharing.
        found: dict[str, int] = {}
        for key, tensor in unmarked(self._checkpoint["model"]).items():
            name, program, _ = key.partition("_program.")
            # An empty tensor lies nowhere: vectors of a weight of which nothing lives.
            if program and name not in found and tensor.numel():
                found[name] = tensor.data_ptr()
        # Reversed, so that the first name of a place is what stays.
        first = {place: name for name, place in reversed(found.items())}
        return tuple(name for name, place in found.items() if first[place] == name)

    @cached_property
    def epochs(self) -> list[int]:
        """Epochs over all cycles of which the folder keeps the state (`snapshots_at`)."""
        names = (
            re.fullmatch(r"epoch-(\d+)\.safetensors", path.name)
            for path in self.path.iterdir()
        )
        return sorted(int(name[1]) for name in names if name)

    @cached_property
    def cycles(self) -> list[int]:
        """Cycles of which the folder keeps the end (`save_cycles`)."""
        return (
            cycle_numbers(self.path)
            if any(self.path.glob("cycle-*.safetensors"))
            else []
        )

    @cached_property
    def cycle_ends(self) -> dict[int, int]:
        """The last epoch, over all cycles, of each cycle of which the folder keeps the end."""
        # The metrics have a row for each epoch: the last row of a cycle is the one that stays.
        last = {row["run"]: row["epoch"] for row in self.folder.metrics()}
        return {cycle: last[cycle] for cycle in self.cycles if cycle in last}

    def points(self) -> dict[int, State]:
        """Every kept state by its epoch over all cycles, in order."""
        found = {epoch: self.at_epoch(epoch) for epoch in self.epochs}
        # Where an epoch and a cycle end together, one file is enough.
        found |= {
            epoch: self.at_cycle(cycle)
            for cycle, epoch in self.cycle_ends.items()
            if epoch not in found
        }
        return dict(sorted(found.items()))

    @property
    def warmup(self) -> int:
        """The first whole epoch at whose end the first warm-up of the learning rate is over; 0 without a warm-up."""
        return math.ceil(
            self.config.learning_rate.build().warmup_epochs(self.config.epochs)
        )

    @cached_property
    def initial(self) -> State:
        """Weights and masks before the first step: `epoch-0.safetensors`, or drawn again from the configuration."""
        if 0 in self.epochs:
            return self.at_epoch(0)
        # The same seed draws the same weights and masks. With `init_from`, unlike in `session`: the run
        # started from what it took.
        drawn = masked_state_dict(self._built(self.config).model)
        return {name: tensor.detach().cpu() for name, tensor in drawn.items()}

    @cached_property
    def final(self) -> State:
        """Weights and masks at the end, or at the checkpoint of an unfinished run."""
        # A finished run has its weights in a file of their own; an unfinished one has a checkpoint alone.
        if (self.path / WEIGHTS).is_file():
            return read_state(self.path)
        return {
            name: tensor.detach().cpu()
            for name, tensor in masked_state_dict(self.session.model).items()
        }

    def at_epoch(self, epoch: int) -> State:
        """Weights and masks after an epoch; CheckpointError when they were not kept."""
        return read_state(self.path, epoch=epoch)

    def at_cycle(self, cycle: int) -> State:
        """Weights and masks at the end of a cycle; CheckpointError when they were not kept."""
        return read_state(self.path, cycle=cycle)

    def masks(self, state: State) -> dict[str, Tensor]:
        """The masks of a state by weight (uint8); all ones for a method without masks."""
        found = {}
        for name in self.weights:
            whole = torch.ones_like(state[name], dtype=torch.uint8)
            found[name] = state.get(mask_key(name), whole)
        return found

    @cached_property
    def session(self) -> Session:
        """The model as it was trained, with its weight programs, at the last checkpoint; and its data."""
        # Nothing is taken from other runs again, which may be gone: the checkpoint holds what was taken.
        session = self._built(self.config.model_copy(update={"init_from": ()}))
        session.load_model(self._checkpoint)
        session.model.eval()
        return session

    def _built(self, config: TrainConfig) -> Session:
        """A fresh session; CheckpointError when the data are others than those that the run was trained on."""
        # Building seeds torch's global generator; whoever analyzes has it as before.
        with torch.random.fork_rng(devices=[]):
            session = build_session(config)
        check_data(
            self.folder,
            session.data.digest,
            "was trained",
            "or give its place in the configuration",
        )
        return session

    def model(self, state: State | None = None) -> nn.Module:
        """A plain model of its own in eval mode: the merged weights at the end, or those of a kept state."""
        # A copy, since `Merge` works in place and the session's model keeps its programs.
        model = copy.deepcopy(self.session.model).eval()
        Merge()(model)
        if state is not None:
            # The weights of a state are masked already, and a plain model has no masks to load.
            masks = {mask_key(name) for name in self.weights}
            model.load_state_dict(
                {name: tensor for name, tensor in state.items() if name not in masks}
            )
        return model

    def batches(self, samples: int, seed: int = 0) -> list[Batch]:
        """Up to `samples` training images with labels, in batches of the training's size, never augmented."""
        epoch = self.session.data.train.epoch(
            self.config.batch_size, train=True, seed=seed
        )
        return list(_first(epoch, samples))

    def test_batches(self) -> list[Batch]:
        """The whole test set."""
        return list(self.session.test_batches())

    def final_masks(self) -> dict[str, Tensor]:
        """The masks at the end."""
        return self.masks(self.final)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss it was trained with, without penalty and weight decay."""
        return self.session.loss(outputs, targets)


def open_runs(
    paths: Sequence[str | os.PathLike[str]], *, device: str = "cpu"
) -> list[Run]:
    """The runs with labels of their own.

    Raises CheckpointError for what is no run, AnalysisError for a run that is given twice.
    """
    runs = [Run(path, device=device) for path in paths]
    # Resolved, since two paths may be one folder: compared with itself, a run would look like a repetition.
    places = [run.path.resolve() for run in runs]
    for run, place in zip(runs, places, strict=True):
        if places.count(place) > 1:
            raise AnalysisError(f"{run.path} is given twice; give each run once")
    # Labels name the rows and lines: the method where it is enough, else the folder, which has the digest too.
    methods = [run.config.method for run in runs]
    for run in runs:
        if methods.count(run.label) > 1:
            run.label = Path(run.path).name
    return runs


def _first(batches: Iterator[Batch], samples: int) -> Iterator[Batch]:
    """The batches up to so many samples; the last one is cut."""
    left = samples
    for inputs, targets in batches:
        yield inputs[:left], targets[:left]
        left -= len(targets)
        if left <= 0:
            return
