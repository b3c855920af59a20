"""What pydantic found wrong with a configuration, in the words of this package."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from sparsify_fx.errors import unknown


def tell(
    problem: Any,
    model: type[BaseModel],
    remedy: str = "set it in the recipe or with --set {key}=...",
) -> str:
    """One sentence on one of pydantic's `ValidationError.errors()`; `remedy`: what to do about a missing key."""
    # pydantic puts the branch of a union that it tried into the place, which is no key that the user wrote.
    place = [str(part) for part in problem["loc"] if not _is_branch(part)]
    key, kind = ".".join(place), problem["type"]
    if kind == "extra_forbidden":
        known = _fields_at(model, place[:-1])
        return str(
            unknown("key", key, [".".join([*place[:-1], name]) for name in known])
        )
    if kind == "missing":
        return f"{key} is missing; {remedy.format(key=key)}"
    if kind in ("model_type", "dict_type", "tuple_type"):
        wanted = _shape_of(kind, _fields_at(model, place))
        return f"{key}: expected {wanted}, got {_shown(problem['input'])}"
    # ValueErrors of this package's own validators are whole sentences; pydantic's own messages lack what was given.
    message = problem["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key or 'the configuration'}: {message[:1].lower()}{message[1:]}, got {_shown(problem['input'])}"


def _shape_of(kind: str, fields: list[str]) -> str:
    """What a section or list is, without pydantic's names of classes."""
    if kind == "tuple_type":
        return "a list"
    return f"a section with the keys {', '.join(fields)}" if fields else "a section"


def _shown(value: Any) -> str:
    """A value as Python writes it, cut to a length that fits into an error."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


def _is_branch(part: object) -> bool:
    """Whether a part of a location is pydantic's name for a branch of a union ("bool", "literal['auto']")."""
    return isinstance(part, str) and (
        part in ("bool", "int", "float", "str")
        or part.startswith(("literal[", "constrained-"))
    )


def _fields_at(model: type[BaseModel], place: list[str]) -> list[str]:
    """The field names of the section at `place`."""
    for name in place:
        # A place within a list: the section is that of its entries, found with the name of the list.
        if name.isdigit():
            continue
        annotation = model.model_fields[name].annotation
        # A list of sections, or a section that may be left out.
        if get_args(annotation) and get_origin(annotation) is not Literal:
            annotation = next(iter(get_args(annotation)), None)
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
