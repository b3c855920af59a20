"""Name -> object tables that fail with a suggestion, and which options of an object its description names."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import Field, field, fields, is_dataclass
from types import FrameType
from typing import Any, Generic, TypeVar

from sparsify_fx.errors import TakenNameError, unknown

T = TypeVar("T")

_UNSTATED = "unstated at its default"


class Registry(Generic[T]):
    """A table of named objects of one kind.

    >>> curves = Registry[int]("curve")
    >>> curves.add("flat", 1)
    1
    >>> curves["flat"]
    1
    >>> list(curves)
    ['flat']
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}
        self._places: dict[str, str] = {}
        self._renamed: dict[str, str] = {}  # present names by former ones

    def add(self, name: str, value: T, *, formerly: str | None = None) -> T:
        """Register `value` under `name`; a name is taken once.

        Args:
            formerly: the name in earlier versions, which goes on finding it. Files keep it; see `stored_name`.

        Raises TakenNameError that says which modules want it.
        """
        # Kept for the message of a later clash, when this module is long done.
        place = _caller()
        if name in self:
            first = self._places.get(name, "this package")
            raise TakenNameError(
                f"{self.kind} {name!r} is already registered, by {first}, and {place} registers it too; choose "
                "another name"
            )
        self._entries[name], self._places[name] = value, place
        if formerly is not None:
            self._renamed[formerly] = name
        return value

    def register(self, name: str, *, formerly: str | None = None) -> Callable[[T], T]:
        """Decorator form of `add`."""
        return lambda value: self.add(name, value, formerly=formerly)

    def present_name(self, name: str) -> str:
        """The name under which an entry is listed, by that one or a former one; what is unknown comes back as it is."""
        return self._renamed.get(name, name)

    def stored_name(self, name: str) -> str:
        """The name that files and hashes hold: the first that the entry ever had.

        A new one there would change the names of run folders and the bits of checkpoints, and older versions could
        not read them.
        """
        former = (old for old, new in self._renamed.items() if new == name)
        return next(former, name)

    def name_of(self, value: T) -> str | None:
        """The name under which `value` is registered, or None."""
        return next(
            (name for name, entry in self._entries.items() if entry is value), None
        )

    def name_of_kind(self, value: object) -> str | None:
        """The name of the class of `value`, or of a registered object of that class; None when there is none."""
        kinds = (
            (name, entry if isinstance(entry, type) else type(entry))
            for name, entry in self._entries.items()
        )
        return next((name for name, kind in kinds if kind is type(value)), None)

    def __getitem__(self, name: str) -> T:
        present = self.present_name(name)
        if present not in self._entries:
            raise unknown(self.kind, name, self._entries)
        return self._entries[present]

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self._renamed

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)


def _caller() -> str:
    """The module in whose import something is registered; in no import, the module of the function that does it."""
    frame: FrameType | None = sys._getframe(2)
    nearest = frame
    # Decorators and helpers lie in between: the module whose top level runs is the one being imported.
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    found = (
        nearest
        if frame is None or frame.f_globals.get("__name__") == "__main__"
        else frame
    )
    return str(found.f_globals.get("__name__")) if found is not None else "a script"


def described(
    registry: Registry[type[Any]], value: Any, *, stored: bool = False
) -> Any:
    """A value whose class is registered as plain data: the registered name, with its fields if it has any.

    Args:
        stored: under the name that files hold; see `Registry.stored_name`.

    >>> from sparsify_fx.parameterizations import PARAMETERIZATIONS, Dense, Product
    >>> described(PARAMETERIZATIONS, Product(beta=0.5)), described(PARAMETERIZATIONS, Dense())
    ({'name': 'product', 'beta': 0.5}, 'dense')
    """
    # By the class: a value with other options is another object than the registered one.
    name = registry.name_of_kind(value) or type(value).__name__
    name = registry.stored_name(name) if stored else name
    options = stated_options(value) if is_dataclass(value) else {}
    return {"name": name, **options} if options else name


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
    return {
        f.name: getattr(value, f.name)
        for f in fields(value)
        if not _silent(f, getattr(value, f.name))
    }


def _silent(option: Field[Any], value: Any) -> bool:
    return bool(option.metadata.get(_UNSTATED)) and value == option.default
