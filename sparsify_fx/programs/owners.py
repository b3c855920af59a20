"""Owners: modules whose weight is computed by a program instead of stored.

An owner keeps its attributes and hooks; its class becomes a subclass of the same name in which the tensor's name is a
property that runs the program. The original `_parameters` entry stays as None, so the order of keys is kept.
"""

from __future__ import annotations

import copyreg
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from sparsify_fx.errors import LayerError
from sparsify_fx.programs.loading import foreign, split_into
from sparsify_fx.programs.owner_class import owner_class, set_class
from sparsify_fx.programs.owner_kinds import kind_of
from sparsify_fx.programs.program import WeightProgram
from sparsify_fx.programs.sharing import as_read, computed, sharing_forward
from sparsify_fx.programs.state import EXTRA, FOR_PLAIN_MODELS


def program_name(tensor: str) -> str:
    """The submodule name under which the program of `tensor` lives in its owner."""
    return f"{tensor}_program"


def owned_tensors(module: nn.Module) -> tuple[str, ...]:
    """Names of the tensors of `module` that programs compute now."""
    return cast("tuple[str, ...]", getattr(type(module), "_sparsify_fx_tensors", ()))


def current_masks(found: Mapping[str, WeightProgram]) -> dict[str, Tensor]:
    """The masks of these programs by weight name, not copied; those without a mask are left out."""
    masks = {name: program.current_mask() for name, program in found.items()}
    return {name: mask for name, mask in masks.items() if mask is not None}


def qualified(module_name: str, tensor: str) -> str:
    """`conv1` and `weight` -> `conv1.weight`; the root module has the empty name."""
    return f"{module_name}.{tensor}" if module_name else tensor


def owners(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """(module name, owner, tensor name) for every program-computed tensor, in module order; shared owners once."""
    for name, module in model.named_modules():
        for tensor in owned_tensors(module):
            yield name, module, tensor


def program_of(owner: nn.Module, tensor: str) -> WeightProgram:
    """The program that computes `tensor` of `owner`."""
    return cast(WeightProgram, owner._modules[program_name(tensor)])


class Subset(nn.Module):
    """Some of the programs of a model, by name: what passes and actions see of one part. It registers nothing."""

    def __init__(self, found: Mapping[str, WeightProgram]) -> None:
        super().__init__()
        self.__dict__["found"] = dict(found)


def programs(model: nn.Module) -> dict[str, WeightProgram]:
    """Every weight program of `model` by the original name of its tensor (`layer1.0.conv1.weight`); tied ones once."""
    if isinstance(model, WeightProgram):
        return {"": model}
    if isinstance(model, Subset):
        return dict(model.__dict__["found"])
    found: dict[str, WeightProgram] = {}
    seen: set[int] = set()
    for name, owner, tensor in owners(model):
        program = program_of(owner, tensor)
        # Tied owners run one program, which counts once in every budget.
        if id(program) not in seen:
            seen.add(id(program))
            found[qualified(name, tensor)] = program
    return found


def check_owner(owner: nn.Module, tensors: tuple[str, ...]) -> None:
    """Raise LayerError, with nothing changed, when programs cannot compute these tensors of `owner`."""
    for name in map(program_name, tensors):
        if name in {
            *owner.__dict__,
            *owner._parameters,
            *owner._buffers,
            *owner._modules,
        } or hasattr(type(owner), name):
            raise LayerError(
                f"this {type(owner).__name__} has a {name} of its own; rename it, or exclude= the layer"
            )
    # Tried and taken back: whether Python can change the class is known only by doing it.
    before = type(owner)
    set_class(owner, _class_for(owner, (*owned_tensors(owner), *tensors)))
    set_class(owner, before)


def install(owner: nn.Module, tensor: str, program: WeightProgram) -> None:
    """Let `program` compute `owner`'s `tensor` from now on."""
    kind = kind_of(owner)
    set_class(owner, _class_for(owner, (*owned_tensors(owner), tensor)))
    # Kept as None, so that the order of keys in state dicts stays that of the plain layer.
    owner._parameters[tensor] = None
    owner._modules[program_name(tensor)] = program
    # What the class computes from now on: an attribute of the object would hide, or be hidden by, the class's.
    for name in () if kind is None else kind.members:
        owner.__dict__.pop(name, None)


def uninstall(owner: nn.Module, tensor: str, weight: nn.Parameter) -> None:
    """Store `weight` as a plain parameter again; the class is the original one after the last tensor."""
    left = tuple(name for name in owned_tensors(owner) if name != tensor)
    kind = kind_of(owner)
    set_class(owner, _class_for(owner, left) if left else original_class(owner))
    del owner._modules[program_name(tensor)]
    owner._parameters[tensor] = weight
    if kind is not None and not left:
        kind.restored(owner)


def original_class(owner: nn.Module) -> type[nn.Module]:
    """The class that `owner` had before any program was installed."""
    return cast(
        "type[nn.Module]", getattr(type(owner), "_sparsify_fx_base", type(owner))
    )


def _class_for(owner: nn.Module, tensors: tuple[str, ...]) -> type[nn.Module]:
    """The class in which these tensors of `owner` are computed."""
    base, kind = original_class(owner), kind_of(owner)
    members = {} if kind is None else dict(kind.members)
    namespace = (
        members
        | sharing_forward(base)
        | {tensor: _computed(tensor) for tensor in tensors}
    )
    namespace |= {
        "__reduce_ex__": _reduce_owner,
        "__delattr__": _refuse_deletion,
        "_load_from_state_dict": _load_split,
        "_save_to_state_dict": _save_marked,
        "register_parameter": _refuse_assignment,
        "_sparsify_fx_base": base,
        "_sparsify_fx_tensors": tensors,
    }
    return owner_class(base, tensors, namespace)


def _computed(tensor: str) -> property:
    name = program_name(tensor)

    def read(self: nn.Module) -> Tensor:
        # `functional_call` puts a tensor there under the original name, and expects it to be used. An empty one is the
        # entry that marks a state dict.
        given = self._parameters.get(tensor)
        if given is not None and given.numel():
            return given
        weight = computed(cast(nn.Module, self._modules[name]))
        return as_read(weight, self, tensor)

    return property(read, doc=f"The effective {tensor}, computed by `{name}`.")


def _reduce_owner(self: nn.Module, protocol: Any) -> Any:
    """Pickle the base class and the tensors; the generated class cannot be imported by name."""
    base, tensors = original_class(self), owned_tensors(self)
    # copyreg.__newobj__ makes the object from its class; only there the base can take the class's place.
    function, arguments, *rest = cast(
        "tuple[Any, ...]", base.__reduce_ex__(self, protocol)
    )
    if function is not getattr(copyreg, "__newobj__"):  # noqa: B009 - typeshed does not know it
        raise LayerError(
            f"cannot copy or pickle {base.__name__}: it defines its own __reduce__; merge the model first"
        )
    return _new_owner, (base, tensors, *arguments[1:]), *rest


def _new_owner(
    base: type[nn.Module], tensors: tuple[str, ...], *arguments: Any
) -> nn.Module:
    owner = base.__new__(base, *arguments)
    set_class(owner, _class_for(owner, tensors))
    return owner


def _save_marked(
    self: nn.Module, destination: dict[str, Any], prefix: str, keep_vars: bool
) -> None:
    """Save as the original class does; the first owner adds the two entries that plain models refuse."""
    original_class(self)._save_to_state_dict(self, destination, prefix, keep_vars)
    # One mark is enough to make a plain model refuse the whole.
    if not any(key.endswith(FOR_PLAIN_MODELS) for key in destination):
        tensor = owned_tensors(self)[0]
        destination[prefix + tensor] = torch.empty(0, dtype=torch.uint8, device="cpu")
        # One byte, for savers that take two empty tensors for one (accelerate's, transformers').
        destination[f"{prefix}{program_name(tensor)}.{FOR_PLAIN_MODELS}"] = torch.zeros(
            1, dtype=torch.uint8, device="cpu"
        )


def _load_split(
    self: nn.Module, state_dict: dict[str, Any], prefix: str, *rest: Any
) -> None:
    """Load a dense checkpoint into a rewritten owner: its weight is split on the way in, under the current mask.

    Shared tensors (thresholds) start afresh with it; state (a temperature) stays.
    """
    errors: list[str] = rest[-1]
    for tensor in owned_tensors(self):
        weight = state_dict.pop(prefix + tensor, None)
        program, child = program_of(self, tensor), prefix + program_name(tensor) + "."
        state_dict.pop(child + FOR_PLAIN_MODELS, None)
        # An empty tensor under the original name is the mark of a rewritten model's state, no weight.
        if weight is not None and weight.numel():
            problem = split_into(state_dict, child, program, weight)
        else:
            problem = foreign(state_dict, child, program)
        if problem is not None:
            errors.append(f"{prefix + tensor}: {problem}")
            # Reported already; with its own state in place of the wrong one the program adds no second error.
            state_dict[child + EXTRA] = program.get_extra_state()
    original_class(self)._load_from_state_dict(self, state_dict, prefix, *rest)


def _refuse_assignment(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
    if name in owned_tensors(self):
        raise _not_yours(self, name, "assigned")
    original_class(self).register_parameter(self, name, param)


def _refuse_deletion(self: nn.Module, name: str) -> None:
    if name in owned_tensors(self):
        raise _not_yours(self, name, "deleted")
    original_class(self).__delattr__(self, name)


def _not_yours(owner: nn.Module, name: str, what: str) -> LayerError:
    return LayerError(
        f"{name} of this {type(owner).__name__} is computed by its weight program and cannot be {what}; "
        "call sparsify_fx.merge(model) first, or load values with load_state_dict"
    )
