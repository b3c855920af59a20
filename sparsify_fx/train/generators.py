"""The random generators that a training may draw from: torch's, of the CPU and of its device, Python's and numpy's."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from sparsify_fx.errors import CheckpointError


def seed_all(seed: int) -> None:
    """Seed all generators; numpy's takes the low 32 bits.

    Models and augmentation of one's own draw from Python's and numpy's.
    """
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def states(device: str | torch.device) -> dict[str, Any]:
    """The states of all generators, as tensors and plain types.

    >>> before = states("cpu")
    >>> drawn = torch.rand(2), random.random(), np.random.rand()
    >>> restore(before, "cpu")
    >>> (drawn[0] == torch.rand(2)).all().item(), drawn[1] == random.random(), drawn[2] == np.random.rand()
    (True, True, True)
    """
    version, numbers, following = random.getstate()
    own = np.random.get_state(legacy=False)
    # int64: torch's loaders of plain types know no unsigned 32-bit arrays of numpy's.
    words = torch.from_numpy(own["state"]["key"].astype(np.int64))
    found: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, torch.tensor(numbers), following],
        "numpy": [words, own["state"]["pos"], own["has_gauss"], own["gauss"]],
    }
    place = torch.device(device)
    if place.type == "cuda":
        found["device"] = torch.cuda.get_rng_state(place)
    elif place.type == "mps":
        found["device"] = torch.mps.get_rng_state()
    return found


def restore(saved: Mapping[str, Any], device: str | torch.device) -> None:
    """Let all generators go on where `states` found them; CheckpointError for anything else."""
    try:
        version, numbers, following = saved["python"]
        words, position, has_gauss, gauss = saved["numpy"]
        random.setstate((version, tuple(numbers.tolist()), following))
        key = words.cpu().numpy().astype(np.uint32)
        np.random.set_state(("MT19937", key, position, has_gauss, gauss))
        # States are tensors of the CPU, also those of a GPU; a checkpoint is read onto the device.
        torch.set_rng_state(saved["torch"].cpu())
        _restore_device(saved, torch.device(device))
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"the checkpoint's states of random generators do not fit ({error}); train again with --force"
        ) from error


def _restore_device(saved: Mapping[str, Any], place: torch.device) -> None:
    # A training that was begun on a device of another kind drew from other streams: there is nothing to go on with.
    if "device" not in saved:
        return
    if place.type == "cuda":
        torch.cuda.set_rng_state(saved["device"].cpu(), place)
    elif place.type == "mps":
        torch.mps.set_rng_state(saved["device"].cpu())


@contextmanager
def own_randomness(device: str) -> Iterator[None]:
    """Give the caller's random states back at the end."""
    kind = torch.device(device)
    # Without a list fork_rng would keep the state of every GPU of the machine, and start CUDA on each.
    devices = []
    if kind.type == "cuda":
        devices = [torch.cuda.current_device() if kind.index is None else kind.index]
    python, numbers = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
