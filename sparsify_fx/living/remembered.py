"""What is known of objects as long as they live, also of those that have no hash."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class Remembered(Generic[Value]):
    """A table by identity that keeps nothing alive; what cannot be referred to weakly is not remembered.

    A dataclass that compares its fields has no hash, so that no `WeakKeyDictionary` takes it, and optimizers may be of
    any class.

    >>> import torch
    >>> table, key = Remembered[int](), torch.optim.SGD([torch.ones(1)])
    >>> table.put(key, 3)
    >>> table.get(key), table.get(torch.optim.SGD([torch.ones(1)]))
    (3, None)
    """

    def __init__(self) -> None:
        self._values: dict[int, tuple[weakref.ref[Any], Value]] = {}

    def get(self, key: Any) -> Value | None:
        """What was put for this very object."""
        found = self._values.get(id(key))
        # A number may be that of an object that is gone.
        return found[1] if found is not None and found[0]() is key else None

    def put(self, key: Any, value: Value) -> None:
        """Remember it until the object goes."""
        number, values = id(key), self._values

        def gone(reference: weakref.ref[Any]) -> None:
            if number in values and values[number][0] is reference:
                del values[number]

        try:
            values[number] = (weakref.ref(key, gone), value)
        except TypeError:
            return

    def made(self, key: Any, make: Callable[[], Value]) -> Value:
        """What was put for this object, or else what `make` makes, which is put."""
        found = self.get(key)
        if found is None:
            self.put(key, found := make())
        return found

    def objects(self) -> list[Any]:
        """Those that are remembered and still there, in the order in which they came."""
        # Listed first: another thread, or what is collected meanwhile, may change the table.
        found = [reference() for reference, _ in list(self._values.values())]
        return [each for each in found if each is not None]

    def forget(self, key: Any = None) -> None:
        """Forget one object, or all of them."""
        if key is None:
            self._values.clear()
        else:
            self._values.pop(id(key), None)
