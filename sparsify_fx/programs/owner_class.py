"""The class of an owner: a subclass of the layer's own class in which its weights are computed.

It is made without the hooks of the layer's family: no `__init_subclass__`, and no `__new__` or `__init__` of a
metaclass, which may want keywords, keep a registry, or refuse subclasses. For the family the class does not exist.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

from torch import nn

from sparsify_fx.errors import LayerError

_CLASSES: dict[tuple[type[nn.Module], tuple[str, ...]], type[nn.Module]] = {}
# From `object` and `type` themselves: a family may have its own __setattr__, or a property __class__.
_SET_CLASS = object.__dict__["__class__"].__set__
_SET_BASES = type.__dict__["__bases__"].__set__


class _NoHooks:
    """Stands before the family in the method resolution order of a class that is being made."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        pass


class _Passing(type):
    """The type of a class that is being made where `_NoHooks` cannot be its base."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        pass

    def mro(cls) -> list[type]:
        """Python calls the `__init_subclass__` of whatever follows the new class."""
        new, *family = super().mro()
        return [new, _NoHooks, *family]


def owner_class(
    base: type[nn.Module], tensors: tuple[str, ...], namespace: Mapping[str, Any]
) -> type[nn.Module]:
    """The subclass of `base` whose `tensors` are computed; one per pair, so that equal layers share a class.

    Args:
        namespace: its members.

    Raises LayerError when Python cannot subclass `base`.
    """
    if (base, tensors) not in _CLASSES:
        # One class, also when two threads make it: `type(a) is type(b)` holds for equal layers as it did.
        _CLASSES.setdefault((base, tensors), _made(base, dict(namespace)))
    return _CLASSES[base, tensors]


def set_class(owner: nn.Module, cls: type[nn.Module]) -> None:
    """Change the class of a module; LayerError, with nothing changed, where Python does not allow it."""
    try:
        _SET_CLASS(owner, cls)
    except TypeError as error:
        raise LayerError(
            f"the class of this {_name(type(owner))} cannot be changed ({error}), so its weights cannot be computed; "
            "leave it out with exclude="
        ) from error


def _made(base: type[nn.Module], namespace: dict[str, Any]) -> type[nn.Module]:
    members = namespace | {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
    }
    try:
        try:
            made = _subclass_by_base(base, members)
        except TypeError:
            # Python lays out the objects of both in different ways (slots, bases in C), and refuses two such bases.
            made = _subclass_by_mro(base, members)
    except TypeError as error:
        raise LayerError(
            f"{_name(base)} cannot be subclassed ({error}), so the weights of its layers cannot be computed; leave "
            "them out with exclude="
        ) from error
    if issubclass(type(base), abc.ABCMeta):
        getattr(abc, "_abc_init")(made)  # noqa: B009 - private; without it the caches of isinstance are those of base
    return made


def _subclass_by_base(
    base: type[nn.Module], members: dict[str, Any]
) -> type[nn.Module]:
    # type.__new__ runs no code of a metaclass but the `__init_subclass__` of the next class in line: that of
    # `_NoHooks`.
    made = type.__new__(type(base), base.__name__, (_NoHooks, base), members)
    # Gone again: isinstance and the method resolution order are those of a plain subclass.
    _SET_BASES(made, (base,))
    return made


def _subclass_by_mro(base: type[nn.Module], members: dict[str, Any]) -> type[nn.Module]:
    # 1. A metaclass whose method resolution order puts `_NoHooks` right after the new class, without it being a base.
    family = type(base)
    passing = type.__new__(
        type(family), family.__name__, (_Passing, family), {"mro": _Passing.mro}
    )
    # 2. The class; Python calls the `__init_subclass__` that follows it in that order.
    made = type.__new__(passing, base.__name__, (base,), members)
    type.__delattr__(passing, "mro")
    passing.__bases__ = (family,)

    # 3. Once made, nothing is left of it: to set the bases computes the usual method resolution order, and the class
    # gets the metaclass of the family. Where that is `type` itself Python does not allow it.
    _SET_BASES(made, (base,))
    if family is not type:
        _SET_CLASS(made, family)
    return made


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
