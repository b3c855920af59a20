"""The process group of processes that torchrun started: joined, left, and words for ranks that are gone."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

import torch
import torch.distributed as dist

from sparsify_fx.distributed.replicas import group
from sparsify_fx.errors import DistributedError, SparsifyError

# What torchrun and its like tell each process; schedulers of clusters set some of them for jobs of one process too.
_TOLD = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# In what gloo and NCCL say when the other side is gone; gloo raises plain RuntimeErrors.
_GONE = (
    "gloo",
    "nccl",
    "connection closed",
    "connection reset",
    "connection refused",
    "broken pipe",
    "timed out",
)


def launched() -> bool:
    """Whether torchrun started this process as one of several."""
    return all(name in os.environ for name in _TOLD) and _number("WORLD_SIZE", 1) > 1


def launched_rank() -> int:
    """The rank that torchrun gave to this process; 0 where there is only one."""
    return _number("RANK", 0) if launched() else 0


@contextlib.contextmanager
def joined(device: str) -> Iterator[None]:
    """Within this context the processes that torchrun started are a group; nothing happens where there is only one.

    By gloo on the CPU, by NCCL between GPUs, of which each process takes the one of its local rank.

    Args:
        device: "auto", "cpu" or "cuda", for all processes.

    Raises DistributedError where there are fewer GPUs than processes, for one that is named ("cuda:1"), and when the
    processes do not find each other.
    """
    # A script that made a group before it called us goes on using it.
    if not launched() or dist.is_initialized():
        yield
        return
    backend = "gloo" if _kind(device) == "cpu" else _with_gpus(device)
    try:
        dist.init_process_group(backend)
    except (RuntimeError, ValueError) as error:
        raise DistributedError(
            f"the {os.environ['WORLD_SIZE']} processes do not find each other at "
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}: {error}"
        ) from error
    yield
    # Not after an error: to leave an NCCL group waits for ranks that may be gone.
    dist.destroy_process_group()


@contextlib.contextmanager
def heard_of_lost_ranks(moment: str) -> Iterator[None]:
    """A DistributedError in place of what gloo or NCCL say when another rank is gone; nothing where there is no group.

    Args:
        moment: what the ranks are doing, for the message.
    """
    try:
        yield
    except RuntimeError as error:
        # An exchange that breaks has its own error, in words for loops that know of no command.
        cause = error.__cause__ if isinstance(error, DistributedError) else error
        if isinstance(cause, SparsifyError) or group() is None or not _lost(cause):
            raise
        # gloo begins with the file and line of its source.
        said = re.sub(r"^(\[[^\]]*\] *)+", "", str(cause)).split(". ")[0]
        raise DistributedError(
            f"another rank left in the middle of {moment}: its own error, or the signal that ended it, says why; the "
            f"same command goes on from the last checkpoint ({said[:200]})"
        ) from error


def _lost(error: BaseException | None) -> bool:
    kinds = (dist.DistError, dist.DistBackendError, dist.DistNetworkError)
    text = str(error).lower()
    if isinstance(error, kinds):
        return True
    return isinstance(error, RuntimeError) and any(word in text for word in _GONE)


def _kind(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device).type


def _with_gpus(device: str) -> str:
    """The backend for a GPU of its own for each process, which is made the current one."""
    if device != "auto" and torch.device(device).index is not None:
        raise DistributedError(
            f"device={device} is one GPU, but torchrun started {os.environ['WORLD_SIZE']} processes; set device to "
            "cuda, and each process takes its own"
        )
    local, there = _number("LOCAL_RANK", 0), torch.accelerator.device_count()
    if local >= there:
        raise DistributedError(
            f"process {local} of this machine has no GPU of its own, there are {there}; start at most {there} "
            "processes on it, or set device to cpu"
        )
    torch.accelerator.set_device_index(local)
    # Hashes and words of a kilobyte travel between the CPUs: they need not wait for what the GPUs have in their queues.
    return "cpu:gloo,cuda:nccl" if _kind(device) == "cuda" else "gloo"


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else default
