"""Checkpoints of a whole training through `torch.distributed.checkpoint`: saved by some processes, loaded by others.

A tensor that is sharded is written by the processes that hold it and read by those that will, whatever their number.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparsify_fx.errors import CheckpointError
from sparsify_fx.sharding import reshard, shard, sharded

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from sparsify_fx.scheduler import Scheduler

# Stands for a tensor in what is saved beside the tensors.
_TENSOR = "sparsify_fx: tensor"
_PLAIN, _SNAPSHOTS = "plain", "tensors"
_groups: dict[str, Any] = {}


def save_checkpoint(
    path: str | Path,
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    scheduler: Scheduler,
    *,
    extra: Mapping[str, Any] | None = None,
    asynchronous: bool = False,
) -> Future[Any] | None:
    """Save a training into a folder, after `scheduler.step()`; every process must call it.

    Args:
        path: a folder on a file system that all processes see; a checkpoint that is there is replaced once the new one
            is whole, so that a kill in between leaves it. Other files in the folder stay.
        model: as `apply` gave it back, under `fully_shard`, inside of DistributedDataParallel, or plain.
        extra: numbers, texts, lists and dicts of them, and tensors that are equal on all processes.
        asynchronous: copy to the CPU and write in the background; the future that comes back is done when all is
            written. Wait for it before the next one, and before the processes end.

    Raises CheckpointError for `extra` of other types, and on every process for a folder that cannot be written; with
    `asynchronous` the future raises what torch does.
    """
    from torch.distributed.checkpoint import state_dict_saver

    from sparsify_fx.distributed.checkpoint_folder import Writer, in_words

    reshard(model)
    tensors: list[Tensor] = []
    plain = _without_tensors(
        {
            "scheduler": scheduler.state_dict(),
            "extra": dict(extra or {}),
            "stepped": _has_stepped(optimizer),
        },
        tensors,
    )
    state = _state_dicts(model, optimizer, plain["stepped"]) | {
        _PLAIN: _to_bytes(plain),
        _SNAPSHOTS: {str(number): tensor for number, tensor in enumerate(tensors)},
    }
    if not asynchronous:
        with in_words(path, "writing a checkpoint"):
            state_dict_saver.save(state, storage_writer=Writer(path), no_dist=_alone())
        return None
    future: Any = state_dict_saver.async_save(
        state,
        storage_writer=Writer(path),
        no_dist=_alone(),
        process_group=_background(),
    )
    return future  # type: ignore[no-any-return]


def load_checkpoint(
    path: str | Path,
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    scheduler: Scheduler,
) -> dict[str, Any]:
    """Go on where `save_checkpoint` was called, on any number of processes; gives `extra` back.

    Build model, optimizer and Scheduler as they were built then, from the same seed, and shard the model if you want.
    A file of one process, `torch.save({"model": ..., "optimizer": ..., "scheduler": ...})`, is loaded as well.

    Raises CheckpointError for something else or another model, SchedulerError for the state of another schedule; both
    before anything is loaded.
    """
    from sparsify_fx.distributed.checkpoint_folder import in_words

    reshard(model)
    if Path(path).is_file():
        return _load_file(path, model, optimizer, scheduler)
    with in_words(path, "reading the checkpoint"):
        return _load_folder(path, model, optimizer, scheduler)


def _load_folder(
    path: str | Path, model: nn.Module, optimizer: Any, scheduler: Scheduler
) -> dict[str, Any]:
    from torch.distributed.checkpoint import state_dict_loader
    from torch.distributed.checkpoint.state_dict import (
        set_model_state_dict,
        set_optimizer_state_dict,
    )

    from sparsify_fx.distributed.checkpoint_folder import Reader, tensor_sizes

    sizes = tensor_sizes(path)
    if _PLAIN not in sizes:
        raise CheckpointError(
            f"{path} is no checkpoint of save_checkpoint: it has no state of a Scheduler; load it with "
            "torch.distributed.checkpoint.load"
        )
    # 1. What is no tensor says which tensors there are, and of which schedule they are.
    plain = torch.empty(sizes[_PLAIN], dtype=torch.uint8, device="cpu")
    state_dict_loader.load(
        {_PLAIN: plain}, storage_reader=Reader(path), no_dist=_alone()
    )
    saved = _from_bytes(plain)
    _check(path, saved["scheduler"], scheduler, sizes, model)

    # 2. Room for them, sharded as the parameters of their shape are now; snapshots are as large as the model.
    layouts = {p.shape: p for p in model.parameters() if sharded(p)}
    room: dict[str, Tensor] = {}
    _with_tensors(saved, lambda entry: room.setdefault(*_empty(entry, layouts)))

    # 3. All is read into tensors that are there, each process its part.
    state = _state_dicts(model, optimizer, saved["stepped"]) | {_SNAPSHOTS: room}
    state_dict_loader.load(state, storage_reader=Reader(path), no_dist=_alone())
    whole = _with_tensors(saved, lambda entry: room[str(entry["number"])])
    set_model_state_dict(model, state["model"])
    if saved["stepped"]:
        set_optimizer_state_dict(model, optimizer, state["optimizer"])
    scheduler.load_state_dict(whole["scheduler"])
    extra: dict[str, Any] = whole["extra"]
    return extra


def _has_stepped(optimizer: Any) -> bool:
    optimizers = optimizer if isinstance(optimizer, Sequence) else [optimizer]
    return any(bool(each.state) for each in optimizers)


def _state_dicts(model: nn.Module, optimizer: Any, stepped: bool) -> dict[str, Any]:
    """The states by the names of the parameters, sharded as these are."""
    from torch.distributed.checkpoint import state_dict

    found: dict[str, Any] = {"model": state_dict.get_model_state_dict(model)}
    # Where there is no state yet torch would make a step with the rate 0, and the counter of Adam would start at 1.
    if stepped:
        found["optimizer"] = state_dict.get_optimizer_state_dict(model, optimizer)
    return found


def _load_file(
    path: str | Path, model: nn.Module, optimizer: Any, scheduler: Scheduler
) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        set_model_state_dict,
    )

    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    # What damaged files raise is anything.
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); expected what torch.save wrote of plain types and tensors"
        ) from error
    needed = {"model", "optimizer", "scheduler"}
    if missing := needed - set(saved if isinstance(saved, dict) else ()):
        raise CheckpointError(
            f"{path} has no {', '.join(sorted(missing))}; expected what torch.save wrote of a dict with the "
            "state dicts model, optimizer and scheduler"
        )
    sizes = {f"model.{name}": value.shape for name, value in saved["model"].items()}
    _check(path, saved["scheduler"], scheduler, sizes, model)
    several = isinstance(optimizer, Sequence)
    optimizers = optimizer if several else [optimizer]
    states = saved.pop("optimizer")
    set_model_state_dict(
        model, saved.pop("model"), options=StateDictOptions(full_state_dict=True)
    )
    for each, state in zip(optimizers, states if several else [states], strict=True):
        each.load_state_dict(state)
        _spread(each)
    scheduler.load_state_dict(saved.pop("scheduler"))
    return dict(saved)


def _spread(optimizer: Optimizer) -> None:
    """Whole state of sharded parameters becomes sharded as they are."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[key] = shard(value, parameter)


def _check(
    path: str | Path,
    saved: Any,
    scheduler: Scheduler,
    sizes: Mapping[str, torch.Size],
    model: nn.Module,
) -> None:
    """SchedulerError for the state of another schedule, CheckpointError for tensors of another model."""
    from torch.distributed.checkpoint.state_dict import get_model_state_dict

    from sparsify_fx.scheduler.fingerprint import check_state

    check_state(saved, scheduler.state_dict()["fingerprint"], scheduler.steps)
    own: Mapping[str, Any] = get_model_state_dict(model)
    for name, tensor in own.items():
        there = sizes.get(f"model.{name}")
        # Vectors of living entries have the length that masks gave them, and are checked as they are loaded.
        if there is None or (len(there) > 1 and there != tensor.shape):
            told = "is missing" if there is None else f"has the shape {list(there)}"
            raise CheckpointError(
                f"{path}: {name} {told}, and this model's is {list(tensor.shape)}; build the model as it was built then"
            )


def _empty(
    entry: Mapping[str, Any], layouts: Mapping[torch.Size, Tensor]
) -> tuple[str, Tensor]:
    shape, dtype = torch.Size(entry["shape"]), getattr(torch, entry["dtype"])
    like = layouts.get(shape) if entry["sharded"] else None
    if like is None:
        return str(entry["number"]), torch.empty(shape, dtype=dtype, device="cpu")
    return str(entry["number"]), torch.empty_like(like.detach(), dtype=dtype)


def _without_tensors(value: Any, tensors: list[Tensor]) -> Any:
    """Plain types alone: each tensor goes into the list, and a dict stands in its place."""
    if isinstance(value, Tensor):
        tensors.append(value.detach())
        return {
            _TENSOR: True,
            "number": len(tensors) - 1,
            "shape": list(value.shape),
            "dtype": str(value.dtype).removeprefix("torch."),
            # Of one process nothing is sharded; what has an axis may be.
            "sharded": value.dim() > 0,
        }
    if isinstance(value, Mapping):
        return {key: _without_tensors(inner, tensors) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_without_tensors(inner, tensors) for inner in value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise CheckpointError(
        f"a {type(value).__name__} cannot be saved; expected numbers, texts, tensors, and lists and dicts of them"
    )


def _with_tensors(value: Any, read: Callable[[Mapping[str, Any]], Tensor]) -> Any:
    if isinstance(value, Mapping):
        if _TENSOR in value:
            return read(value)
        return {key: _with_tensors(inner, read) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_with_tensors(inner, read) for inner in value)
    return value


def _to_bytes(plain: Any) -> Tensor:
    stream = io.BytesIO()
    torch.save(plain, stream)
    return torch.frombuffer(bytearray(stream.getvalue()), dtype=torch.uint8)


def _from_bytes(tensor: Tensor) -> Any:
    return torch.load(io.BytesIO(bytes(tensor.tolist())), weights_only=True)


def _background() -> Any:
    """A process group for the writing thread alone: gloo ends the process where two threads use one group at once."""
    if _alone():
        return None
    world = torch.distributed.group.WORLD
    # One for all saves of a job; after another `init_process_group` it would be gone.
    if _groups.get("of") is not world:
        _groups.update(
            {"of": world, "own": torch.distributed.new_group(backend="gloo")}
        )
    return _groups["own"]


def _alone() -> bool:
    return not (torch.distributed.is_available() and torch.distributed.is_initialized())
