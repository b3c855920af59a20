"""The tracks of a whole model, or of those of its parts that torch.export can trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sparsify_fx.coupling.classes import Classes
from sparsify_fx.coupling.tracing import as_call, in_mode, tracked
from sparsify_fx.coupling.tracks import Tracks, first_classes
from sparsify_fx.errors import LayerError
from sparsify_fx.sharding import copy_in_full

_MOST = 60  # parts that are tried: each takes a tracing
Calls = dict[str, tuple[tuple[Any, ...], dict[str, Any]]]


def followed(model: nn.Module, example_inputs: Any) -> tuple[Tracks, str]:
    """(the tracks, a note where only parts of the model could be traced).

    Raises LayerError for inputs that the model does not take, and what torch.export raised where it traces no part.
    Layers that evaluation does not use are followed as training uses them, where that can be traced too.
    """
    args, kwargs = as_call(example_inputs)
    classes, names = first_classes(), _first_names(model)
    # A forward may write into attributes of the model: what tracing leaves there has no values.
    model = copy_in_full(model)
    try:
        found = [tracked(model, args, kwargs, _empty(classes, names))]
        note = ""
    except Exception as error:
        # A frame of the failed trace would hold all that it made.
        reason = f"{type(error).__name__}: {first_line(error)}"
        error.__traceback__ = None
        found, parts = _parts(model, example_inputs, names)
        if not found:
            raise
        note = f"the model cannot be traced as a whole ({reason}); followed within {', '.join(parts)}"
        return _joined(found), note
    if unused(model, found[0]):
        found += _in_training(model, example_inputs, classes, names)
    return _joined(found), note


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).strip().splitlines() or ["no message"])[0]


def inputs_error(model: nn.Module, error: BaseException) -> LayerError:
    """The error for inputs at which the model itself raises this one."""
    return LayerError(
        f"{type(model).__name__} does not take the example inputs ({type(error).__name__}: {first_line(error)}); give "
        "example_inputs as its forward takes them: a tensor, a tuple of arguments, or a dict by name. A part of a "
        "model takes what reaches it there; or give the whole model, and to apply include= with the part's name"
    )


def _empty(classes: Classes, names: Mapping[str, str], prefix: str = "") -> Tracks:
    return Tracks({}, {}, classes=classes, names=names, prefix=prefix)


def _first_names(model: nn.Module) -> dict[str, str]:
    """The first name of the tensor that each name stands for."""
    first: dict[int, str] = {}
    found = {}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]  # fmt: skip
    for name, tensor in named:
        found[name] = first.setdefault(id(tensor), name)
    return found


def unused(model: nn.Module, tracks: Tracks) -> list[str]:
    """The names of the model's matrices and kernels that are not in the graph."""
    large = [name for name, p in model.named_parameters() if p.dim() > 1]
    return [name for name in large if name not in tracks.uses]


def _in_training(
    model: nn.Module, example_inputs: Any, classes: Classes, names: Mapping[str, str]
) -> list[Tracks]:
    """The tracks of a copy as it trains; none where that cannot be traced, or wants other inputs."""
    mark = classes.mark()
    args, kwargs = as_call(example_inputs)
    try:
        with torch.random.fork_rng():
            twin = copy_in_full(model)
            return [tracked(twin, args, kwargs, _empty(classes, names), training=True)]
    except Exception:
        # What was followed before the error joins nothing.
        classes.back_to(mark)
        return []


def _parts(
    model: nn.Module, example_inputs: Any, names: Mapping[str, str]
) -> tuple[list[Tracks], list[str]]:
    """The largest modules that can be traced at the inputs that they get in the model, and their paths."""
    calls = _calls(model, example_inputs)
    classes, found, paths = first_classes(), list[Tracks](), list[str]()
    waiting = [(name, child) for name, child in model.named_children()]
    tries = 0
    while waiting and tries < _MOST:
        path, module = waiting.pop(0)
        # One layer by itself has its outputs read by others, and no channels of its own.
        if not _deep(module):
            continue
        if path in calls:
            tries += 1
            args, kwargs = calls[path]
            mark = classes.mark()
            try:
                start = _empty(classes, names, f"{path}.")
                found.append(tracked(module, args, kwargs, start))
                paths.append(path)
                continue
            except Exception:
                # torch.export raises whatever the part's own code raised; its own parts are tried next.
                classes.back_to(mark)
        waiting += [(f"{path}.{name}", child) for name, child in module.named_children()]  # fmt: skip
    return found, paths


def _deep(module: nn.Module) -> bool:
    """Whether it holds two matrices or kernels at least."""
    return sum(p.dim() > 1 for p in module.parameters()) > 1


def _calls(model: nn.Module, example_inputs: Any) -> Calls:
    """The arguments of each module's first call, by its path."""
    found: Calls = {}
    hooks = []

    def hook_of(path: str) -> Any:
        def note(module: nn.Module, args: Any, kwargs: Any) -> None:
            found.setdefault(path, (args, kwargs))

        return note

    args, kwargs = as_call(example_inputs)
    for path, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(hook_of(path), with_kwargs=True))
    try:
        with in_mode(model), torch.no_grad(), torch.random.fork_rng():
            model(*args, **kwargs)
    except Exception as error:
        raise inputs_error(model, error) from error
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _joined(parts: list[Tracks]) -> Tracks:
    """Several graphs of one model as one: a tensor that two of them use is sliced alike."""
    if len(parts) == 1:
        return parts[0]
    lists: dict[str, Any] = {n: [] for n in ("readings", "resized", "bare", "heads", "made")}  # fmt: skip
    whole = replace(parts[0], values={}, uses={}, unknown={}, **lists)
    for number, part in enumerate(parts):
        whole.values.update({f"{number} {n}": v for n, v in part.values.items()})
        for name, uses in part.uses.items():
            whole.uses.setdefault(name, []).extend(uses)
        for name, count in part.unknown.items():
            whole.unknown[name] = whole.unknown.get(name, 0) + count
        whole.readings.extend(part.readings)
        whole.resized.extend(part.resized)
        whole.bare.extend(part.bare)
        whole.heads.extend(part.heads)
        whole.made.extend(part.made)
    return whole
