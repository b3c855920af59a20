"""Which axes of the inputs can have any size: `dynamic_shapes`, in every form that torch.export takes, made one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.export import Dim

from sparsify_fx.errors import ExportError, unknown
from sparsify_fx.onnx_export.tracing.inputs import Inputs, Place

Axes = Sequence[Mapping[int, Any]]
"""Per tensor, in the order of `Inputs.tensors`: axis -> its name, Dim or hint; other axes are fixed."""

_HINT = type(Dim.AUTO)
_FORM = 'for instance dynamic_shapes={"x": {0: "batch", 2: "height", 3: "width"}}'


def open_axes(wanted: Any, inputs: Inputs, places: Sequence[Place]) -> Axes:
    """`dynamic_shapes` by tensor and axis.

    Args:
        wanted: a mapping by the names of forward's parameters (inputs that it leaves out are fixed), or a tuple or list
            with an entry for each. An entry is None, a mapping of axes, or a tuple or list with something for each
            axis: None, a size, `Dim.STATIC`, a name, a `Dim`, `Dim.DYNAMIC` or `Dim.AUTO`.

    Raises ExportError or UnknownNameError for entries, axes and names that do not fit the inputs.
    """
    if isinstance(wanted, Mapping):
        entries = _by_name(wanted, places)
    elif isinstance(wanted, tuple | list):
        entries = _by_position(wanted, places)
    else:
        raise ExportError(
            f"dynamic_shapes: expected a dict or a tuple, got {type(wanted).__name__}; {_FORM}"
        )
    return [
        _axes(entry, tuple(value.shape), place.name)
        for entry, value, place in zip(entries, inputs.tensors, places, strict=True)
    ]


def _by_name(wanted: Mapping[Any, Any], places: Sequence[Place]) -> list[Any]:
    """The entries of a mapping: by the name of the input, or by the parameter and then as torch nests them."""
    # Both by the name of an input and by the parameter that it belongs to: *args are torch's way.
    known = {place.name for place in places} | {place.parameter for place in places}
    for name in wanted:
        if name not in known:
            raise unknown(
                "input in dynamic_shapes", str(name), [place.name for place in places]
            )
    entries = []
    for place in places:
        entry = wanted.get(place.name)
        # Under the parameter of *args or **kwargs the entry holds one for each of them.
        if place.within is not None and place.parameter in wanted:
            entry = _nested(wanted[place.parameter], place)
        entries.append(entry)
    return entries


def _nested(entry: Any, place: Place) -> Any:
    """What an entry for *args or **kwargs says of one of them."""
    if entry is None:
        return None
    try:
        return (
            entry.get(place.within)
            if isinstance(entry, Mapping)
            else entry[place.within]
        )
    except (TypeError, LookupError):
        raise ExportError(
            f"dynamic_shapes[{place.parameter!r}] says nothing of {place.name}; give a tuple with an entry for each "
            "positional argument, a dict for keywords"
        ) from None


def _by_position(wanted: Sequence[Any], places: Sequence[Place]) -> list[Any]:
    if len(wanted) != len(places):
        raise ExportError(
            f"dynamic_shapes has {len(wanted)} entries for {len(places)} inputs "
            f"({', '.join(place.name for place in places)}); give one for each, None for a fixed one, or a dict by name"
        )
    return list(wanted)


def _axes(entry: Any, shape: tuple[int, ...], name: str) -> dict[int, Any]:
    """The open axes of one input."""
    if entry is None:
        return {}
    if isinstance(entry, tuple | list):
        if len(entry) != len(shape):
            raise ExportError(
                f"dynamic_shapes of {name}: {len(entry)} entries for {len(shape)} axes {list(shape)}"
            )
        # A tuple says something of each axis, and is a mapping from here on.
        entry = dict(enumerate(entry))
    if not isinstance(entry, Mapping):
        raise ExportError(
            f"dynamic_shapes of {name}: expected a dict of axes, got {type(entry).__name__}; {_FORM}"
        )
    found = {}
    for axis, spec in entry.items():
        if (
            isinstance(axis, bool)
            or not isinstance(axis, int)
            or not -len(shape) <= axis < len(shape)
        ):
            raise ExportError(
                f"dynamic_shapes of {name}: {axis!r} is no axis of {list(shape)}; axes count from 0"
            )
        # Axes count from the back too, as in torch; a truth value would be axis 0 or 1.
        place = axis % len(shape)
        if not _is_fixed(spec, shape[place], f"dynamic_shapes of {name}, axis {axis}"):
            found[place] = spec
    return found


def _is_fixed(spec: Any, size: int, where: str) -> bool:
    """Whether an axis stays as it is; ExportError for what torch has no meaning for, and a size that does not fit."""
    # 1. Fixed: None, Dim.STATIC, or the size itself.
    if spec is None or (isinstance(spec, _HINT) and spec == Dim.STATIC):
        return True
    if isinstance(spec, int) and not isinstance(spec, bool):
        if spec != size:
            raise ExportError(
                f"{where}: fixed to {spec}, but example_inputs have {size}"
            )
        return True
    # 2. Named. ONNX allows any text, torch.export only identifiers.
    if isinstance(spec, str):
        if not spec.isidentifier():
            raise ExportError(f"{where}: {spec!r} is no name (letters, digits and _)")
        return False
    # 3. A Dim or a hint, whose range must hold the example. One derived from another (2
    # * Dim("n")) has the range of that one, which bounds something else than this size.
    if not isinstance(spec, Dim | _HINT):
        raise ExportError(
            f"{where}: expected a name, a torch.export.Dim or None, got {type(spec).__name__}; {_FORM}"
        )
    least, most = limits(spec)
    if not isinstance(getattr(spec, "root", None), Dim) and not least <= size <= most:
        raise ExportError(
            f"{where}: example_inputs have {size}, but the Dim goes from {least:g} to {most:g}"
        )
    return False


def is_optional(spec: Any) -> bool:
    """`Dim.AUTO`: an axis that may also end up fixed."""
    return isinstance(spec, _HINT) and bool(spec.type == Dim.AUTO.type)


def limits(spec: Any) -> tuple[float, float]:
    """The least and the largest size of a Dim, of the one that it is derived from, or of a hint."""
    source = getattr(spec, "root", spec)
    least, most = getattr(source, "min", None), getattr(source, "max", None)
    return (
        1 if least is None else least,
        float("inf") if most is None else float(most),
    )


def for_torch(axes: Axes, places: Sequence[Place]) -> dict[str, Any] | None:
    """The axes as torch.export wants them: by parameter, nested for *args and **kwargs; None if all are fixed."""
    if not any(axes):
        return None
    made: dict[str, Any] = {}
    for mine, place in zip(axes, places, strict=True):
        # torch.export wants None, not an empty dict, for an input that is fixed throughout.
        entry = dict(mine) or None
        # *args come as one tuple in their order, **kwargs as one dict.
        if isinstance(place.within, int):
            made[place.parameter] = (*made.get(place.parameter, ()), entry)
        elif place.within is not None:
            made.setdefault(place.parameter, {})[place.within] = entry
        else:
            made[place.parameter] = entry
    return made
