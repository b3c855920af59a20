"""Options of axes, and which of them a description names."""

from __future__ import annotations

from dataclasses import Field, field, fields
from typing import Any

_UNSTATED = "unstated at its default"


def added_option(default: Any) -> Any:
    """A dataclass field for an option that came later: descriptions leave it out while it has its default.

    So configurations that do not use it keep their description, and with it the hash that names their run.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Axis:
    ...     level: int = 3
    ...     extra: float | None = added_option(None)
    >>> stated_options(Axis()), stated_options(Axis(extra=0.5))
    ({'level': 3}, {'level': 3, 'extra': 0.5})
    """
    return field(default=default, metadata={_UNSTATED: True})


def stated_options(value: Any) -> dict[str, Any]:
    """The fields of a dataclass by name, without later options at their default."""
    return {f.name: getattr(value, f.name) for f in fields(value) if not _silent(f, getattr(value, f.name))}


def _silent(option: Field[Any], value: Any) -> bool:
    return bool(option.metadata.get(_UNSTATED)) and value == option.default
