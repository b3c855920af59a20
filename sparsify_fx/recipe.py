"""A method is a point on independent axes, and "a+b" merges two.

A method *sets* the axes that define it and *suggests* others that any partner may replace: `signin` sets the
parameterization and the rescaling, and suggests a random balanced mask at init, so `lrr+signin` has the masks of lrr.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sparsify_fx.allocations import Global
from sparsify_fx.axes import (
    AXES,
    MASK_AXES,
    Axes,
    ResolvedAxes,
    axis_value,
    describe,
)
from sparsify_fx.criteria import CRITERIA
from sparsify_fx.errors import MethodError, unknown
from sparsify_fx.moved import old_names
from sparsify_fx.parameterizations import Dense
from sparsify_fx.penalties import NoPenalty
from sparsify_fx.plugins import load_plugins
from sparsify_fx.registry import Registry
from sparsify_fx.rewinds import Rewind
from sparsify_fx.schedules import AtInit

__all__ = [
    "AXES",
    "MASK_AXES",
    "METHODS",
    "Axes",
    "Method",
    "ResolvedAxes",
    "axis_value",
    "describe",
    "find_method",
    "merge_methods",
]


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
    # Methods register themselves when they are imported, which nothing has done before the first look-up.
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
    # Sorted and once each: the order of a sum and a part that is named twice must not make another run.
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
    # What the caller has chosen is no contradiction any more: the choice replaces both.
    for axis in set(AXES) - set((chosen or Axes()).given()):
        set_a, set_b = getattr(a.sets, axis), getattr(b.sets, axis)
        # 1. What defines one of the two counts before anything that either merely suggests.
        if set_a is not None or set_b is not None:
            merged_set[axis] = _join(axis, (a.name, set_a), (b.name, set_b))
            continue
        hint_a, hint_b = getattr(a.suggests, axis), getattr(b.suggests, axis)
        # 2. Which weights go, how many of each layer, and when belong together: suggestions on the mask axes all
        #    come from the method that decides the mask.
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


def _decides_mask(method: Method) -> bool:
    return any(getattr(method.sets, axis) is not None for axis in MASK_AXES)


def _join(axis: str, a: tuple[str, Any], b: tuple[str, Any]) -> Any:
    """One value out of two; actions of different kinds add up."""
    if a[1] is None or b[1] is None or a[1] == b[1]:
        return b[1] if a[1] is None else a[1]
    # Two of one kind with other options contradict each other; rescaling twice is not what either wants.
    if axis == "actions" and not {type(x) for x in a[1]} & {type(x) for x in b[1]}:
        # By their text, so that a+b and b+a are equal, in their order too.
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
