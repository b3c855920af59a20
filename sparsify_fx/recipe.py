"""A method is a point on independent axes, and "a+b" merges two.

A method *sets* the axes that define it and *suggests* others that any partner may replace: `signin` sets the
parameterization and the rescaling, and suggests a random balanced mask at init, so `lrr+signin` has the masks of lrr.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from sparsify_fx.actions import ACTIONS, TimedAction
from sparsify_fx.allocations import ALLOCATIONS, Allocation, Global
from sparsify_fx.criteria import CRITERIA, Criterion, FunctionCriterion
from sparsify_fx.errors import MethodError, unknown
from sparsify_fx.moved import old_names
from sparsify_fx.parameterizations import (
    PARAMETERIZATIONS,
    ByLayer,
    Dense,
    Parameterization,
)
from sparsify_fx.penalties import PENALTIES, NoPenalty, Penalty
from sparsify_fx.plugins import load_plugins
from sparsify_fx.registry import Registry, described
from sparsify_fx.rewinds import Rewind
from sparsify_fx.schedules import SCHEDULES, AtInit, Schedule


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


AXES = tuple(f.name for f in fields(Axes))
MASK_AXES = ("criterion", "allocation", "schedule")
_NAMED: dict[str, tuple[Registry[Any], type[Any]]] = {
    "criterion": (CRITERIA, Criterion),
    "allocation": (ALLOCATIONS, Allocation),
    "parameterization": (PARAMETERIZATIONS, Parameterization),
    "penalty": (PENALTIES, Penalty),
    "schedule": (SCHEDULES, Schedule),
}


@dataclass(frozen=True)
class Method:
    """A named method.

    Attributes:
        name: "lrr", or "lrr+signin" for a sum.
        summary: one sentence for `sparsify-fx methods`.
        source: where it was published.
        sets: the axes that define the method.
        suggests: axes that a partner or the caller may replace.
    """

    name: str
    summary: str = ""
    source: str = ""
    sets: Axes = field(default_factory=Axes)
    suggests: Axes = field(default_factory=Axes)

    def resolved(self) -> ResolvedAxes:
        """Every axis filled: what is set, else what is suggested, else the plain default."""
        plain: dict[str, Any] = {
            "criterion": CRITERIA["magnitude"],
            "allocation": Global(),
            "parameterization": Dense(),
            "penalty": NoPenalty(),
            "schedule": AtInit(),
            "rewind": Rewind(),
            "actions": (),
        }
        return ResolvedAxes(**(plain | self.suggests.given() | self.sets.given()))


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


METHODS: Registry[Method] = Registry("method")


def find_method(name: str, axes: Mapping[str, Any] | None = None) -> Method:
    """The method called `name`, or the sum of several: "lrr+signin" equals "signin+lrr".

    Args:
        axes: values by axis that replace those of the method: objects, names ("uniform") or mappings
            ({"name": "cycles", "keep": 0.5}); None leaves an axis to the method.

    Raises UnknownNameError for an unknown part or axis, MethodError for what is no name or when parts set an axis
    differently, PluginError for an installed plugin that cannot be imported.
    """
    if not isinstance(name, str):
        raise MethodError(
            f"method={name!r}: expected a name such as 'signin', or a sum such as 'lrr+signin'"
        )
    load_plugins()
    for axis in axes or {}:
        if axis not in AXES:
            raise unknown("axis", axis, AXES)
    chosen = Axes(
        **{
            axis: axis_value(axis, value)
            for axis, value in (axes or {}).items()
            if value is not None
        }
    )
    parts = sorted({part.strip() for part in name.split("+")})
    method = METHODS[parts[0]]
    for part in parts[1:]:
        method = merge_methods(method, METHODS[part], chosen)
    return replace(method, sets=replace(method.sets, **chosen.given()))


def merge_methods(a: Method, b: Method, chosen: Axes | None = None) -> Method:
    """The sum of two methods.

    An axis that one of them sets is taken from it. Between two suggestions on the mask axes (criterion, allocation,
    schedule) that of the method counts which sets one of these axes. What stays contradictory raises MethodError,
    except on the axes that the caller has `chosen`.
    """
    name = "+".join(sorted({*a.name.split("+"), *b.name.split("+")}))
    merged_set, merged_suggestion = {}, {}
    for axis in set(AXES) - set((chosen or Axes()).given()):
        set_a, set_b = getattr(a.sets, axis), getattr(b.sets, axis)
        if set_a is not None or set_b is not None:
            merged_set[axis] = _join(axis, (a.name, set_a), (b.name, set_b))
            continue
        hint_a, hint_b = getattr(a.suggests, axis), getattr(b.suggests, axis)
        if axis in MASK_AXES and _decides_mask(a) != _decides_mask(b):
            leader, follower = (
                (hint_a, hint_b) if _decides_mask(a) else (hint_b, hint_a)
            )
            merged_suggestion[axis] = follower if leader is None else leader
        else:
            merged_suggestion[axis] = _join(axis, (a.name, hint_a), (b.name, hint_b))
    return Method(
        name=name,
        summary=" ".join(part for part in (a.summary, b.summary) if part),
        source="; ".join(dict.fromkeys(part for part in (a.source, b.source) if part)),
        sets=Axes(**merged_set),
        suggests=Axes(**merged_suggestion),
    )


def axis_value(axis: str, value: Any) -> Any:
    """The object behind a name, a mapping, or the object itself.

    >>> axis_value("schedule", {"name": "cycles", "keep": 0.5})
    Cycles(keep=0.5)
    """
    load_plugins()
    if axis == "actions":
        single = not isinstance(value, (list, tuple))
        return tuple(
            _named(ACTIONS, TimedAction, item)
            for item in ([value] if single else value)
        )
    if axis == "rewind":
        return (
            _built(Rewind, "rewind", dict(value))
            if isinstance(value, Mapping)
            else _expect(value, Rewind, axis)
        )
    if axis == "parameterization" and (by_layer := _by_layer(value)) is not None:
        return by_layer
    return _named(*_NAMED[axis], value)


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
            pattern: _named(*_NAMED["parameterization"], item)
            for pattern, item in value.items()
        }
    )


def _is_option(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float))


def describe(axis: str, value: Any, *, stored: bool = False) -> Any:
    """The JSON-ready form of an axis value: its registered name and its fields; see `ResolvedAxes.to_dict`."""
    if axis == "actions":
        return [described(ACTIONS, action, stored=stored) for action in value]
    if axis == "rewind":
        return {f.name: getattr(value, f.name) for f in fields(value)}
    if isinstance(
        value, ByLayer
    ):  # always as mappings: patterns are free, and "run" with a word would be a run folder
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


def _named(registry: Registry[Any], kind: type[Any], value: Any) -> Any:
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
    if isinstance(entry, type):
        return _built(entry, f"{registry.kind} {name!r}", options)
    if (
        options and is_dataclass(entry) and not isinstance(entry, FunctionCriterion)
    ):  # an object with options
        return _built(type(entry), f"{registry.kind} {name!r}", options)
    if options:
        raise MethodError(
            f"{registry.kind} {name!r} takes no options, got {sorted(options)}"
        )
    return entry


def _built(cls: type[Any], label: str, options: Mapping[str, Any]) -> Any:
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


def _expect(value: Any, kind: type[Any], axis: str) -> Any:
    if isinstance(value, type) or not isinstance(value, kind):
        raise MethodError(
            f"{axis}: expected a name, a mapping with options, or a {kind.__name__}; got {value!r}"
        )
    return value


def _decides_mask(method: Method) -> bool:
    return any(getattr(method.sets, axis) is not None for axis in MASK_AXES)


def _join(axis: str, a: tuple[str, Any], b: tuple[str, Any]) -> Any:
    """One value out of two; actions of different kinds add up."""
    if a[1] is None or b[1] is None or a[1] == b[1]:
        return b[1] if a[1] is None else a[1]
    if axis == "actions" and not {type(x) for x in a[1]} & {type(x) for x in b[1]}:
        return tuple(sorted((*a[1], *b[1]), key=repr))
    told = " and ".join(
        f"{name} has {describe(axis, value)!r}" for name, value in (a, b)
    )
    raise MethodError(
        f"cannot merge {a[0]} with {b[0]}: on the axis {axis!r} {told}; pass {axis}= to choose"
    )


if not TYPE_CHECKING:
    __getattr__ = old_names(
        __name__, {"Recipe": "Method", "merge_recipes": "merge_methods"}
    )
