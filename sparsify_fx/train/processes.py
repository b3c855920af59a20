"""The processes of one training: who reads which part of a batch, who writes, and what all of them agree on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from sparsify_fx.distributed.ranks import exchange, group, together
from sparsify_fx.errors import ConfigError, DistributedError
from sparsify_fx.train.config import TrainConfig
from sparsify_fx.train.run_folder import RunFolder, open_folder
from sparsify_fx.zoo.data.shares import Share, check_divisible

if TYPE_CHECKING:
    from sparsify_fx.train.result import Result


Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Processes:
    """How the processes of a training divide its batches.

    Attributes:
        index, count: this one's rank, and how many there are.
        pieces: the micro-batches of a batch, over all processes.
        fixed: whether their number is the configuration's own: then sums of gradients do not depend on `count`.
    """

    index: int = 0
    count: int = 1
    pieces: int = 1
    fixed: bool = False

    @property
    def share(self) -> Share:
        """What this process reads of the data."""
        return Share(self.index, self.count)

    @property
    def main(self) -> bool:
        """Whether this process writes the run folder and shows the progress."""
        return self.index == 0

    @property
    def own(self) -> range:
        """The numbers of this process's micro-batches."""
        each = self.pieces // self.count
        return range(self.index * each, (self.index + 1) * each)

    def micro_batches(self, batches: Iterable[Batch]) -> list[Batch]:
        """The micro-batches of whole batches."""
        found: list[Batch] = []
        for x, y in batches:
            pair = (torch.split(t, len(x) // self.pieces) for t in (x, y))
            found += zip(*pair, strict=True)
        return found

    def summed(self, totals: Tensor) -> Tensor:
        """Totals of all processes; of one process, as they are."""
        ranks = group()
        if self.count == 1 or ranks is None:
            return totals
        # Whole numbers of samples and correct answers stay exact beyond 2²⁴.
        # Always a copy: this process goes on adding to its own.
        total = totals.to(torch.float64, copy=True)
        dist.all_reduce(total, group=ranks)
        return total

    def begun(self, totals: Tensor) -> Tensor:
        """What this process goes on with, of totals of all processes; the sum over them is the same."""
        return totals if self.main else torch.zeros_like(totals)


def processes_of(config: TrainConfig) -> Processes:
    """Those that train `config`: all of the process group, or this one alone.

    Raises ConfigError for a batch that cannot be divided among them.
    """
    ranks = group()
    count = 1 if ranks is None else dist.get_world_size(ranks)
    index = 0 if ranks is None else dist.get_rank(ranks)
    fixed = config.accumulate > 1
    pieces = config.accumulate if fixed else count
    if pieces % count:
        raise ConfigError(
            f"accumulate={pieces} micro-batches cannot be divided among {count} processes; set accumulate to 1 or to a "
            f"multiple of {count}, or start another number of processes"
        )
    # Before the data are loaded: their own check would come late, and speaks of processes alone.
    check_divisible(
        config.batch_size, pieces, "micro-batches" if fixed else "processes"
    )
    if fixed and config.sync_batch_norm is True:
        raise ConfigError(
            f"sync_batch_norm=true with accumulate={pieces}: statistics over the micro-batches at work at once "
            "would depend on the number of processes; leave one of them out (accumulate normalizes each micro-batch by "
            "itself, as one process does)"
        )
    return Processes(index, count, pieces, fixed)


def synchronizes(config: TrainConfig, processes: Processes) -> bool:
    """Whether batch norms take the statistics of the whole batch from all processes, as a single process does."""
    if processes.fixed or processes.count == 1:
        return False
    return config.sync_batch_norm is not False


class ReadFolder(RunFolder):
    """The run folder as the processes have it that do not write: what they are told to write, the first one writes."""

    def write_config(self, config: TrainConfig) -> None:
        """Nothing is written."""

    def write_data(self, content: Mapping[str, Any]) -> None:
        """Nothing is written."""

    def append(self, row: Mapping[str, Any]) -> None:
        """Nothing is written."""

    def cut_metrics(self, epochs: int) -> list[dict[str, Any]]:
        """The lines of the first `epochs` epochs; the others stay."""
        return self.metrics(epochs)

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Nothing is written."""

    def save_state(self, name: str, state: Mapping[str, Tensor]) -> None:
        """Nothing is written."""

    def finish(self, weights: Mapping[str, Tensor], result: dict[str, Any]) -> None:
        """Nothing is written."""

    def clear(self) -> None:
        """Nothing is removed."""

    def remove_leftovers(self) -> None:
        """Nothing is removed."""


@contextlib.contextmanager
def open_together(path: Path, *, main: bool, force: bool) -> Iterator[RunFolder]:
    """The run folder, locked and cleaned by the main process, from which the others only read.

    Args:
        force: remove what is there.

    Raises the CheckpointError of `open_folder`, and on the other processes a DistributedError that tells it.
    """
    with contextlib.ExitStack() as stack:
        folder: RunFolder = ReadFolder(path)
        with together("opening the run folder"):
            if main:
                folder = stack.enter_context(open_folder(path))
                if force:
                    folder.clear()
        yield folder


def agreed(moment: str, found: str, path: Path) -> None:
    """DistributedError unless all processes found the same in the run folder."""
    said = exchange(moment, found)
    if len(set(said)) > 1:
        told = "; ".join(f"rank {rank}: {text}" for rank, text in enumerate(said))
        raise DistributedError(
            f"{path} is not the same folder for all processes ({told}); choose --runs on a file system that "
            "all of them see"
        )


def known_to_all(known: Result | None, path: Path) -> Result | None:
    """A result that was found in the run folder, once all processes have found it."""
    agreed("looking for a result", "unfinished" if known is None else "finished", path)
    return known


@contextlib.contextmanager
def first_of_machine() -> Iterator[None]:
    """The processes of a machine one after the other within this context, beginning with its first.

    What one of them downloads is there for the others.
    """
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    if group() is None:
        yield
        return
    if first:
        with together("loading the data"):
            yield
        with together("loading the data everywhere"):
            pass
    else:
        with together("loading the data"):
            pass
        with together("loading the data everywhere"):
            yield
