"""Which numbers of modules the code uses as sizes of tensors: a number that is a width by chance is none of them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

Place = tuple[str, str]
"""The path of a module, and the name of one of its numbers."""

# Sizes of images and of windows over them, limits and factors: no axis of channels gets them.
_NO_SIZES = ("pool", "interpolate", "upsample", "arange", "linspace", "clamp")
_ARITHMETIC = (
    *("add", "sub", "mul", "div", "truediv", "floordiv", "mod", "pow", "neg", "abs"),
    *("eq", "ne", "lt", "le", "gt", "ge"),
)


class _Spied(int):
    """A number that knows the places that it comes from; what is computed of it comes from there too."""

    places: frozenset[Place] = frozenset()

    def __neg__(self) -> _Spied:
        return _spied(-int(self), self.places)


def _spied(number: int, places: Iterable[Place]) -> _Spied:
    made = _Spied(number)
    made.places = frozenset(places)
    return made


def _passed_on(compute: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: _Spied, *others: Any) -> Any:
        plain = [int(o) if isinstance(o, _Spied) else o for o in others]
        result = compute(int(self), *plain)
        if type(result) is not int:
            return result
        mine = [o.places for o in others if isinstance(o, _Spied)]
        return _spied(result, self.places.union(*mine))

    return method


def _backwards(compute: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda own, other: compute(other, own)


for _name in ("add", "sub", "mul", "floordiv", "mod"):
    _compute = getattr(operator, _name)
    setattr(_Spied, f"__{_name}__", _passed_on(_compute))
    setattr(_Spied, f"__r{_name}__", _passed_on(_backwards(_compute)))


class _Watch(TorchFunctionMode):
    """Notes the places of numbers that functions of torch get as sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[Place] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        name = str(getattr(func, "__name__", ""))
        if _operator(name) not in _ARITHMETIC and not any(
            part in name for part in _NO_SIZES
        ):
            for number in _numbers((args, given)):
                self.found |= number.places
        return func(*args, **given)


def _operator(name: str) -> str:
    """The operator of a method: mul of __rmul__ and mul_."""
    bare = name.strip("_")
    forms = (bare, bare[1:]) if name.startswith("__") else (bare,)
    return next((form for form in forms if form in _ARITHMETIC), bare)


def _numbers(value: Any) -> Iterator[_Spied]:
    """The spied numbers in arguments."""
    if isinstance(value, _Spied):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, dict):
        yield from _numbers(list(value.values()))
    elif isinstance(value, slice):
        yield from _numbers((value.start, value.stop, value.step))


def sizes_read(
    model: nn.Module, places: Collection[Place], run: Callable[[nn.Module], object]
) -> set[Place]:
    """Those of these numbers that the model's code gives to functions of torch as sizes.

    Args:
        model: a copy, whose numbers are replaced.
        run: calls the model. What it raises ends the search, with all places taken for sizes.
    """
    with suppress(Exception), _Watch() as watch:
        for path, name in places:
            module = model.get_submodule(path)
            number = getattr(module, name)
            # A list of sizes is found by the operator that takes it.
            if type(number) is not int:
                watch.found.add((path, name))
            else:
                setattr(module, name, _spied(number, [(path, name)]))
        run(model)
        return set(watch.found)
    return set(places)
