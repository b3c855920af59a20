"""Models under `torch.distributed.fsdp.fully_shard`: plain copies of them, and the way back to a plain model."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from sparsify_fx.errors import LayerError
from sparsify_fx.sharding.copying import without_history
from sparsify_fx.sharding.shards import sharded, whole

# What `fully_shard` leaves in the `__dict__` of modules, beside hooks.
_MARKS = ("_is_fsdp_managed_module", "_fsdp_use_orig_params")
_HOOKS = (
    "_forward_pre_hooks",
    "_forward_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def is_fsdp(module: nn.Module) -> bool:
    """Whether `fully_shard` was called on this very module."""
    # From sys.modules: without the import nothing can be sharded.
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(module, fsdp.FSDPModule)


def reshard(model: nn.Module) -> bool:
    """Put the shards in place everywhere; whether anything of the model is sharded.

    After a forward without a backward FSDP leaves whole parameters in the outermost module: what is written into them
    would be lost.
    """
    # At every step of a training: where nobody has imported FSDP no module is looked at.
    if "torch.distributed.fsdp" not in sys.modules:
        return False
    found = [module for module in model.modules() if is_fsdp(module)]
    for module in found:
        module.reshard()  # type: ignore[operator]
    return bool(found)


def copy_in_full(
    model: nn.Module,
    memo: dict[int, Any] | None = None,
    device: torch.device | str | None = None,
) -> nn.Module:
    """A plain deep copy, gathered parameter by parameter; every process of the mesh must call it.

    Args:
        memo: as of `copy.deepcopy`; what it has in place of a parameter is not gathered.
        device: of the copy's parameters and buffers; None: where they are.

    Values with gradient history in attributes lose it. Raises LayerError for a model that cannot be copied.
    """
    reshard(model)
    memo = {} if memo is None else memo
    for parameter in model.parameters():
        # Gathered and moved one by one, so that the device holds one whole tensor at a time.
        if id(parameter) not in memo and (sharded(parameter) or device is not None):
            values = whole(parameter).to(device)
            values = values.clone() if values is parameter.data else values
            memo[id(parameter)] = nn.Parameter(values, parameter.requires_grad)
    # Hooks are methods of FSDP's states, which hold process groups: those are not copied.
    for module in model.modules():
        if is_fsdp(module):
            state = module._get_fsdp_state()  # type: ignore[operator]
            memo[id(state)] = state
    for value, values in without_history(model):
        memo.setdefault(id(value), values)
    with _plain_classes(model):
        copied = _deep_copy(model, memo)
    for module in copied.modules():
        _forget(module)
    return copied if device is None else copied.to(device)


def _deep_copy(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        # Whatever the objects that the model holds raise: open handles, tensors with history deep inside them.
        raise LayerError(
            f"{type(model).__name__} cannot be copied ({str(error).splitlines()[0] if str(error) else error!r}); keep "
            "no open handles, and no tensors with gradient history, in objects that the model holds"
        ) from error


def make_whole(model: nn.Module) -> bool:
    """Take `fully_shard` back, in place: plain whole parameters on every process; whether there was anything to do."""
    if not reshard(model):
        return False
    known: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None or not sharded(parameter):
                continue
            if id(parameter) not in known:
                known[id(parameter)] = nn.Parameter(
                    whole(parameter), parameter.requires_grad
                )
            module._parameters[name] = known[id(parameter)]
    for module in model.modules():
        if is_fsdp(module):
            object.__setattr__(module, "__class__", plain_class(module))
    for module in model.modules():
        _forget(module)
    return True


def plain_class(module: nn.Module) -> type[nn.Module]:
    """The class that the module had before `fully_shard`."""
    cls: Any = type(module)
    found: type[nn.Module] = (
        cls.__mro__[cls._orig_cls_mro_index] if is_fsdp(module) else cls
    )
    return found


@contextmanager
def _plain_classes(model: nn.Module) -> Iterator[None]:
    """Within this context modules can be copied: those of FSDP refuse it."""
    before = {module: type(module) for module in model.modules() if is_fsdp(module)}
    for module in before:
        object.__setattr__(module, "__class__", plain_class(module))
    try:
        yield
    finally:
        for module, cls in before.items():
            object.__setattr__(module, "__class__", cls)


def _forget(module: nn.Module) -> None:
    """Take away what FSDP has put into a module, or into what `module` is a copy of."""
    from torch.distributed import _composable_state
    from torch.distributed._composable.contract import REGISTRY_KEY, STATE_KEY

    own = module.__dict__
    for table in _HOOKS:
        hooks = own.get(table, {})
        for key in [key for key, hook in hooks.items() if _is_of_fsdp(hook)]:
            for each in (table, f"{table}_with_kwargs", f"{table}_always_called"):
                own.get(each, {}).pop(key, None)
    for mark in _MARKS:
        own.pop(mark, None)
    # The tables of torch's composable calls: others, such as `checkpoint`, have their entries there too.
    states = own.get(STATE_KEY, {})
    for key in [key for key, state in states.items() if _is_of_fsdp(type(state))]:
        del states[key]
    own.get(REGISTRY_KEY, {}).pop("fully_shard", None)
    _composable_state._module_state_mapping.pop(module, None)


def _is_of_fsdp(hook: Any) -> bool:
    # State-dict hooks are wrapped in an object; methods and closures tell their module.
    hook = getattr(hook, "hook", hook)
    of = getattr(hook, "__module__", "") or ""
    return of.startswith("torch.distributed.fsdp._fully_shard")
