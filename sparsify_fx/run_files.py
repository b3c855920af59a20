"""The states that a run folder keeps: dense weights and masks by weight name, as safetensors.

runs/lrr-0123456789/
  epoch-30.safetensors   after epoch 30 over all cycles, before a pruning at its end; 0 is the start
  cycle-2.safetensors    at the end of run number 2, before the next pruning
  model.safetensors      the merged weights at the end; their masks are in checkpoint.pt

The mask of the weight `conv1.weight` is called `conv1.weight.mask` (uint8, 1 keeps).
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from sparsify_fx.errors import CheckpointError

WEIGHTS, CHECKPOINT = "model.safetensors", "checkpoint.pt"
State = dict[str, Tensor]


def epoch_file(epoch: int) -> str:
    """The name of the state after an epoch."""
    return f"epoch-{epoch}.safetensors"


def cycle_file(run: int) -> str:
    """The name of the state at the end of a run."""
    return f"cycle-{run}.safetensors"


def mask_key(weight: str) -> str:
    """The name of a weight's mask in a state."""
    return f"{weight}.mask"


def cycle_numbers(run: str | Path) -> list[int]:
    """The runs of which a folder keeps the end, in order.

    Raises CheckpointError when there is none.
    """
    matches = (re.fullmatch(r"cycle-(\d+)\.safetensors", path.name) for path in Path(run).glob("cycle-*.safetensors"))
    numbers = sorted(int(match[1]) for match in matches if match)
    if not numbers:
        raise CheckpointError(
            f"{run} keeps no cycle-N.safetensors; give a run folder that was trained with save_cycles=true"
        )
    return numbers


def read_state(run: str | Path, *, epoch: int | None = None, cycle: int | None = None) -> State:
    """Weights and masks of another run, on the CPU.

    Args:
        run: a run folder, or one .safetensors file.
        epoch, cycle: which state of a folder; the end of the run if neither is given.

    Raises CheckpointError when it is not there or cannot be read.
    """
    path = Path(run)
    if path.suffix == ".safetensors":
        return _read(path) if path.name != WEIGHTS else read_state(path.parent)
    if epoch is not None:
        return _read(path / epoch_file(epoch), f"train it with snapshots_at=[{epoch}]")
    if cycle is not None:
        return _read(path / cycle_file(cycle), "train it with save_cycles=true")
    return _read(path / WEIGHTS, "finish its training") | _final_masks(path / CHECKPOINT)


def digest(state: Mapping[str, Tensor]) -> str:
    """10 hex digits of every name, shape and bit of a state."""
    seen = hashlib.blake2b(digest_size=5)
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        seen.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        seen.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return seen.hexdigest()


def by_content(value: Any) -> Any:
    """A JSON-like value in which every option `run` or `source` that is a path is the digest of that run's cycles.

    Raises CheckpointError when the run keeps none.
    """
    if isinstance(value, Mapping):
        return {key: cycles_digest(v) if _is_run(key, v) else by_content(v) for key, v in value.items()}
    return [by_content(item) for item in value] if isinstance(value, (list, tuple)) else value


def cycles_digest(run: str) -> str:
    """10 hex digits of all states that a run folder keeps of its cycles."""
    parts = (f"{cycle} {digest(read_state(run, cycle=cycle))}" for cycle in cycle_numbers(run))
    return hashlib.blake2b(" ".join(parts).encode(), digest_size=5).hexdigest()


def _is_run(key: str, value: Any) -> bool:
    return key in ("run", "source") and isinstance(value, str)


def _read(path: Path, remedy: str = "check the path") -> State:
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; {remedy}, or give another run")
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); train that run again with --force") from error


def _final_masks(path: Path) -> State:
    try:
        model = torch.load(path, map_location="cpu", weights_only=True)["model"]
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} with the masks of that run cannot be read ({error}); train it again") from error
    ending = "_program.mask"
    return {mask_key(key.removesuffix(ending)): mask for key, mask in model.items() if key.endswith(ending)}
