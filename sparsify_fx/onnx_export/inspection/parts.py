"""The state dicts inside a checkpoint, each with its prefix, and what beside them is the state of a training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sparsify_fx.errors import CheckpointError
from sparsify_fx.onnx_export.inspection.subclasses import Inert
from sparsify_fx.programs.program import is_extra

OBJECTS = "Python objects"
_DEEPEST = 60
_MOST = 200_000  # containers: a small pickle can name one list in many places
_RNG_SIZES = (16, 5056)  # bytes of the states of torch's generators, CUDA and CPU


@dataclass(frozen=True)
class Part:
    """One state dict: the keys that lead to it, and its tensors by name (with the extra states of modules)."""

    path: tuple[str, ...]
    tensors: dict[str, Any]


@dataclass
class Parts:
    """All state dicts of a checkpoint in its order, and what was left out, by kind."""

    found: list[Part] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)


def find_parts(content: Any) -> Parts:
    """Every state dict, at any depth of mappings and lists, with the keys that lead to it unless it is the only one.

    Not the states of optimizers, schedulers, gradient scalers and generators, which are known by their structure, nor
    single numbers beside state dicts.

    >>> net = {"fc.weight": torch.ones(2, 2)}
    >>> adam = {"state": {0: {"exp_avg": torch.ones(2, 2)}}, "param_groups": [{"params": [0]}]}
    >>> parts = find_parts({"epoch": 3, "ema": net, "net": net, "optim": [adam]})
    >>> [part.path for part in parts.found], parts.left_out
    ([('ema',), ('net',)], {'optimizer state': ['optim.0']})
    """
    parts = Parts()
    for path, tensors in _state_dicts(content, (), parts, set(), [0]):
        parts.found.append(Part(path, tensors))
    # Numbers alone, such as losses and accuracies, are no part of a model beside others that are.
    models = [
        part
        for part in parts.found
        if any(_is_more_than_a_number(value) for value in part.tensors.values())
    ]
    if models:
        for part in parts.found:
            if not any(part is model for model in models):
                _leave_out(
                    parts,
                    "single numbers",
                    (".".join((*part.path, name)) for name in part.tensors),
                )
        parts.found = models
    # A prefix tells parts apart; a single one needs none.
    if len(parts.found) == 1:
        parts.found = [Part((), parts.found[0].tensors)]
    return parts


def _state_dicts(
    content: Any, path: tuple[str, ...], parts: Parts, above: set[int], seen: list[int]
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Depth first, in the order of the file: a mapping's own tensors, then those of what it holds."""
    if isinstance(content, Inert):
        _leave_out(parts, OBJECTS, [".".join(path) or "the whole file"])
    items = _items(content)
    # Pickles may contain themselves. Only containers above count: one that is named in
    # two places is shown twice, as a model and its copy are.
    if items is None or id(content) in above:
        return
    # A list of a hundred names of one list, sixty deep, is a small file that would never end.
    seen[0] += 1
    if len(path) > _DEEPEST or seen[0] > _MOST:
        raise CheckpointError(
            "its lists and dicts are nested too deeply or too often; save model.state_dict() alone"
        )
    kind = next((name for name, is_kind in _TRAINING.items() if is_kind(content)), None)
    if kind is not None:
        _leave_out(parts, kind, [".".join(path) or "the whole file"])
        return
    # Extra states alone are no part of a model.
    tensors, inner = _own(items, path, parts)
    if any(not is_extra(name) for name in tensors):
        yield path, tensors
    for key, value in inner:
        yield from _state_dicts(value, (*path, key), parts, above | {id(content)}, seen)


def _items(content: Any) -> Iterable[tuple[Any, Any]] | None:
    """What a container holds, by key or place; None for anything else. Bare tensors in a list have no names."""
    if isinstance(content, Mapping):
        return content.items()
    if isinstance(content, (list, tuple)) and not isinstance(content, torch.Size):
        return [
            (place, value)
            for place, value in enumerate(content)
            if not isinstance(value, Tensor)
        ]
    return None


def _own(
    items: Iterable[tuple[Any, Any]], path: tuple[str, ...], parts: Parts
) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    """The tensors that a mapping holds itself, also in lists, and the other containers in it."""
    tensors: dict[str, Any] = {}
    inner: list[tuple[str, Any]] = []
    for key, value in items:
        name = str(key)
        # 1. A nested tensor is several of different lengths, none of which has a name.
        if isinstance(value, Tensor) and value.is_nested:
            tensors |= {
                f"{name}.{place}": each for place, each in enumerate(value.unbind())
            }
        # 2. States of random generators look like tensors of bytes.
        elif isinstance(value, Tensor) and _is_generator(value):
            _leave_out(parts, "generator state", [".".join((*path, name))])
        elif isinstance(value, Tensor) or is_extra(name):
            tensors[name] = value
        # 3. Tensors in a list get its name and their place; the containers in it are looked into below.
        elif isinstance(value, (list, tuple)) and any(
            isinstance(each, Tensor) for each in value
        ):
            listed = [
                (place, each)
                for place, each in enumerate(value)
                if isinstance(each, Tensor)
            ]
            if all(_is_generator(each) for _, each in listed):
                _leave_out(parts, "generator state", [".".join((*path, name))])
            else:
                tensors |= {f"{name}.{place}": each for place, each in listed}
        if not isinstance(value, Tensor) and not is_extra(name):
            inner.append((name, value))
    return tensors, inner


def _is_generator(tensor: Tensor) -> bool:
    return (
        tensor.dtype is torch.uint8
        and tensor.dim() == 1
        and tensor.numel() in _RNG_SIZES
    )


def _is_more_than_a_number(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


def _leave_out(parts: Parts, kind: str, names: Iterable[str]) -> None:
    for name in names:
        parts.left_out.setdefault(kind, []).append(name)


def _is_optimizer(content: Any) -> bool:
    """What `Optimizer.state_dict` gives, or its flat form, which `torch.distributed.checkpoint` can save."""
    if not isinstance(content, Mapping):
        return False
    groups = content.get("param_groups")
    if isinstance(groups, (list, tuple)) and isinstance(content.get("state"), Mapping):
        return all(isinstance(group, Mapping) for group in groups)
    # Flat: `state.fc.weight.exp_avg`, `param_groups.fc.weight.lr`, and nothing else beside them.
    heads = {
        key.partition(".")[0] for key in content if isinstance(key, str) and "." in key
    }
    return heads == {"state", "param_groups"} and all(
        isinstance(key, str) and "." in key for key in content
    )


def _has(*keys: str) -> Callable[[Any], bool]:
    return lambda content: (
        isinstance(content, Mapping) and all(key in content for key in keys)
    )


_TRAINING: dict[str, Callable[[Any], bool]] = {
    "optimizer state": _is_optimizer,
    "learning-rate schedule": _has("last_epoch", "_step_count"),
    "gradient scaler": _has("growth_factor", "backoff_factor"),
    "state of a sparsify_fx Scheduler": _has("step", "rates", "fingerprint"),
}
