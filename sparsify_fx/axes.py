"""The axes of a method, and values on them: as objects, as names with options, and as plain data again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from sparsify_fx.actions import ACTIONS, TimedAction
from sparsify_fx.allocations import ALLOCATIONS, Allocation
from sparsify_fx.criteria import CRITERIA, Criterion, FunctionCriterion
from sparsify_fx.errors import MethodError, unknown
from sparsify_fx.parameterizations import PARAMETERIZATIONS, ByLayer, Parameterization
from sparsify_fx.penalties import PENALTIES, Penalty, PenaltySum
from sparsify_fx.plugins import load_plugins
from sparsify_fx.registry import Registry, described
from sparsify_fx.rewinds import Rewind
from sparsify_fx.schedules import SCHEDULES, Schedule


@dataclass(frozen=True)
class Axes:
    """Values on the axes; None leaves an axis open."""

    criterion: Criterion | None = None
    allocation: Allocation | None = None
    parameterization: Parameterization | ByLayer | None = None
    penalty: Penalty | None = None
    schedule: Schedule | None = None
    rewind: Rewind | None = None
    actions: tuple[TimedAction, ...] | None = None

    def given(self) -> dict[str, Any]:
        """The axes that are not open."""
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if getattr(self, f.name) is not None
        }


@dataclass(frozen=True)
class ResolvedAxes:
    """A value on every axis."""

    criterion: Criterion
    allocation: Allocation
    parameterization: Parameterization | ByLayer
    penalty: Penalty
    schedule: Schedule
    rewind: Rewind
    actions: tuple[TimedAction, ...]

    def to_dict(self, *, stored: bool = False) -> dict[str, Any]:
        """Plain, JSON-ready values, in the form that `axis_value` reads.

        Args:
            stored: with the names that files and hashes hold, which stay as they were when an entry is renamed.
        """
        return {
            f.name: describe(f.name, getattr(self, f.name), stored=stored)
            for f in fields(self)
        }


AXES = tuple(f.name for f in fields(Axes))
MASK_AXES = ("criterion", "allocation", "schedule")
# The axes whose values have names; `actions` is a list of such, and a rewind is one dataclass.
_NAMED: dict[str, tuple[Registry[Any], type[Any]]] = {
    "criterion": (CRITERIA, Criterion),
    "allocation": (ALLOCATIONS, Allocation),
    "parameterization": (PARAMETERIZATIONS, Parameterization),
    "penalty": (PENALTIES, Penalty),
    "schedule": (SCHEDULES, Schedule),
}


def axis_value(axis: str, value: Any) -> Any:
    """The object that a name or a mapping stands for, or the object itself.

    >>> axis_value("schedule", {"name": "cycles", "keep": 0.5})
    Cycles(keep=0.5, trained=False, start=1.0)
    """
    # A name may be a plugin's; the first look-up of any name imports them.
    load_plugins()
    if axis == "actions":
        # One action need not be written as a list in a recipe.
        single = not isinstance(value, (list, tuple))
        return tuple(
            named(ACTIONS, TimedAction, item) for item in ([value] if single else value)
        )
    if axis == "rewind":
        return (
            _built(Rewind, "rewind", dict(value))
            if isinstance(value, Mapping)
            else _rewind(value)
        )
    if axis == "penalty" and isinstance(value, (list, tuple)):
        return PenaltySum(tuple(named(PENALTIES, Penalty, item) for item in value))
    if axis == "parameterization" and (by_layer := _by_layer(value)) is not None:
        return by_layer
    return named(*_NAMED[axis], value)


def _by_layer(value: Any) -> ByLayer | None:
    """Parameterizations by layer; None for a value that names one for all."""
    if isinstance(value, ByLayer):
        return value
    # Without a "name" it is by layer; but {"beta": 2.0} names no parameterization, and `_named` says what is missing.
    if (
        not isinstance(value, Mapping)
        or "name" in value
        or any(_is_option(item) for item in value.values())
    ):
        return None
    return ByLayer(
        {
            pattern: named(*_NAMED["parameterization"], item)
            for pattern, item in value.items()
        }
    )


def _is_option(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float))


def describe(axis: str, value: Any, *, stored: bool = False) -> Any:
    """The JSON-ready form of an axis value: its registered name and its fields; see `ResolvedAxes.to_dict`."""
    if axis == "actions":
        return [described(ACTIONS, action, stored=stored) for action in value]
    if axis == "penalty" and isinstance(value, PenaltySum):
        return [described(PENALTIES, part, stored=stored) for part in value.parts]
    if axis == "rewind":
        return {f.name: getattr(value, f.name) for f in fields(value)}
    # Always as mappings: patterns are free, and "run" with a word would be a run folder.
    if isinstance(value, ByLayer):
        told = {
            pattern: described(PARAMETERIZATIONS, how, stored=stored)
            for pattern, how in value.by_pattern.items()
        }
        return {
            pattern: how if isinstance(how, dict) else {"name": how}
            for pattern, how in told.items()
        }
    return (
        value.name
        if isinstance(value, FunctionCriterion)
        else described(_NAMED[axis][0], value, stored=stored)
    )


def named(registry: Registry[Any], kind: type[Any], value: Any) -> Any:
    """The entry that a name or a mapping with options stands for, or the object itself if it is of that kind."""
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping):
        return _expect(value, kind, registry.kind)
    options = dict(value)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise MethodError(
            f"{registry.kind}: expected a mapping with 'name' and its options, got {dict(value)!r}"
        )
    entry = registry[name]
    # 1. A class: the options are its fields.
    if isinstance(entry, type):
        return _built(entry, f"{registry.kind} {name!r}", options)
    # 2. An object with options, such as "snip": another one of its class.
    if options and is_dataclass(entry) and not isinstance(entry, FunctionCriterion):
        return _built(type(entry), f"{registry.kind} {name!r}", options)
    # 3. An object without fields, or a function.
    if options:
        raise MethodError(
            f"{registry.kind} {name!r} takes no options, got {sorted(options)}"
        )
    return entry


def _built(cls: type[Any], label: str, options: Mapping[str, Any]) -> Any:
    # Checked here: the TypeError of a constructor names no option that was meant.
    known = [f.name for f in fields(cls)]
    for key in options:
        if key not in known:
            raise MethodError(str(unknown(f"option of {label}", key, known)))
    try:
        return cls(**options)
    except TypeError as error:
        raise MethodError(
            f"{label}: {error}; its options are {', '.join(known) or 'none'}"
        ) from error


def _rewind(value: Any) -> Rewind:
    if not isinstance(value, Rewind):
        known = ", ".join(field.name for field in fields(Rewind))
        raise MethodError(
            f"rewind: expected a Rewind, or a mapping such as {{'weights': 'init'}} with some of {known}; got {value!r}"
        )
    return value


def _expect(value: Any, kind: type[Any], axis: str) -> Any:
    if isinstance(value, type) or not isinstance(value, kind):
        raise MethodError(
            f"{axis}: expected a name, a mapping with options, or a {kind.__name__}; got {value!r}"
        )
    return value
