"""The states that a run folder keeps: dense weights and masks by weight name, as safetensors.

runs/lrr-0123456789/
  epoch-30.safetensors   after epoch 30 over all cycles, before a pruning at its end; 0 is the start
  cycle-2.safetensors    at the end of run number 2, before the next pruning
  model.safetensors      the merged weights at the end; their masks are in checkpoint.pt
  average.safetensors    the merged average of the weights at the end, where the configuration asks for one
  best.safetensors       after the epoch with the best validation accuracy, where it asks for that

The mask of the weight `conv1.weight` is called `conv1.weight.mask` (uint8, 1 keeps). Every file holds a checksum of
its content, which is compared whenever it is read; files of sparsify_fx 0.1, which have none, are read as they are.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from sparsify_fx.checkpoints.checksums import damage
from sparsify_fx.errors import CheckpointError

WEIGHTS, CHECKPOINT = "model.safetensors", "checkpoint.pt"
AVERAGE, BEST = "average.safetensors", "best.safetensors"
State = dict[str, Tensor]
_CHECKSUM = "blake2b"


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
    try:
        names = [path.name for path in Path(run).glob("cycle-*.safetensors")]
    except (OSError, ValueError):  # a name that no folder can have
        names = []
    matches = (re.fullmatch(r"cycle-(\d+)\.safetensors", name) for name in names)
    numbers = sorted(int(match[1]) for match in matches if match)
    if not numbers:
        raise CheckpointError(
            f"{run} keeps no cycle-N.safetensors; give a run folder that was trained with save_cycles=true"
        )
    return numbers


def read_state(
    run: str | Path, *, epoch: int | None = None, cycle: int | None = None
) -> State:
    """Weights and masks of another run, on the CPU.

    Args:
        run: a run folder, or one .safetensors file.
        epoch, cycle: which state of a folder; the end of the run if neither is given.

    Raises CheckpointError when it is not there or cannot be read.
    """
    path = Path(run)
    # The merged weights alone lack masks, which lie in the checkpoint beside them.
    if path.suffix == ".safetensors":
        return _read(path) if path.name != WEIGHTS else read_state(path.parent)
    if epoch is not None:
        return _read(path / epoch_file(epoch), f"train it with snapshots_at=[{epoch}]")
    if cycle is not None:
        return _read(path / cycle_file(cycle), "train it with save_cycles=true")
    return _read(path / WEIGHTS, "finish its training") | _final_masks(
        path / CHECKPOINT
    )


def read_checkpoint(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """The content of a checkpoint.pt, read without running anything pickled, once its checksums are found right.

    Raises CheckpointError when it is damaged in any bit, or is no checkpoint at all.
    """
    try:
        # Checksums first: torch's reader compares none, and would load flipped bits.
        found = damage(path)
        content = (
            None if found else torch.load(path, map_location=device, weights_only=True)
        )
    except Exception as error:  # a damaged file fails anywhere in torch's reader
        found = (str(error) or type(error).__name__).partition("\n")[0]
    if found is None and not isinstance(content, dict):
        found = f"it holds {type(content).__name__} instead of a state by name"
    if found is not None:
        raise CheckpointError(
            f"{path} cannot be read ({found}); train again with --force, or put a copy in its place"
        )
    assert isinstance(content, dict)
    return content


def packed(state: Mapping[str, Tensor]) -> bytes:
    """A state as a safetensors file with a checksum of names, shapes, types and bits in its metadata."""
    plain = {
        key: tensor.detach().cpu().contiguous().clone() for key, tensor in state.items()
    }
    data = safetensors.torch.save(plain, metadata={"format": "pt"})
    # Given both, safetensors would write them in an order that changes from process to process.
    end = 8 + int.from_bytes(data[:8], "little")
    # 8 bytes of length, a JSON header of that length, then the tensors: the layout of safetensors.
    header = json.loads(data[8:end])
    header["__metadata__"][_CHECKSUM] = checksum(plain)
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # tensors are aligned
    return len(text).to_bytes(8, "little") + text + data[end:]


def digest(state: Mapping[str, Tensor]) -> str:
    """10 hex digits of every name, shape and bit of a state."""
    return _hashed(state, 5)


def checksum(state: Mapping[str, Tensor]) -> str:
    """32 hex digits of the same."""
    return _hashed(state, 16)


def _hashed(state: Mapping[str, Tensor], size: int) -> str:
    seen = hashlib.blake2b(digest_size=size)
    # Sorted: the order of a dict is no part of what a state is.
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        # Names and shapes count as well: the same bytes could be read as other tensors.
        seen.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        seen.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return seen.hexdigest()


def by_content(value: Any) -> Any:
    """A JSON-like value in which every option `run` or `source` that is a path is the digest of that run's cycles.

    Raises CheckpointError when the run keeps none.
    """
    # The run counts by what it holds: a folder that was moved is the same run, one that was trained anew is not.
    if isinstance(value, Mapping):
        return {
            key: cycles_digest(v) if _is_run(key, v) else by_content(v)
            for key, v in value.items()
        }
    return (
        [by_content(item) for item in value]
        if isinstance(value, (list, tuple))
        else value
    )


def cycles_digest(run: str) -> str:
    """10 hex digits of all states that a run folder keeps of its cycles."""
    parts = (
        # One by one: all cycles of a large model need not fit into memory together.
        f"{cycle} {digest(read_state(run, cycle=cycle))}"
        for cycle in cycle_numbers(run)
    )
    return hashlib.blake2b(" ".join(parts).encode(), digest_size=5).hexdigest()


def _is_run(key: str, value: Any) -> bool:
    return key in ("run", "source") and isinstance(value, str)


def _read(path: Path, remedy: str = "check the path") -> State:
    try:
        there = path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        there = False
    if not there:
        raise CheckpointError(f"{path} does not exist; {remedy}, or give another run")
    return read_tensors(path)


def read_tensors(path: Path) -> State:
    """The tensors of a safetensors file on the CPU; CheckpointError when it is damaged in any bit."""
    try:
        with safe_open(str(path), framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            expected = (file.metadata() or {}).get(_CHECKSUM)
    except Exception as error:  # a damaged header fails anywhere in the reader
        reason = (str(error) or type(error).__name__).partition("\n")[0]
        raise CheckpointError(
            f"{path} cannot be read ({reason}); train that run again with --force"
        ) from error
    if expected is not None and expected != checksum(state):
        raise CheckpointError(
            f"{path} is damaged: its checksum differs; train that run again with --force"
        )
    for name, tensor in state.items():
        is_mask = (
            name.endswith(mask_key("")) and name.removesuffix(mask_key("")) in state
        )
        if is_mask and bool(((tensor != 0) & (tensor != 1)).any()):
            raise CheckpointError(
                f"{path} is damaged: {name} holds values beside 0 and 1; train that run again"
            )
    return state


def _final_masks(path: Path) -> State:
    model = read_checkpoint(path).get("model")
    if not isinstance(model, Mapping):
        raise CheckpointError(
            f"{path} holds no model, so the masks of that run are missing; train it again"
        )
    ending = "_program.mask"
    return {
        mask_key(key.removesuffix(ending)): mask
        for key, mask in model.items()
        if key.endswith(ending)
    }
