"""What a shrink took away, and the way back to the original shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.errors import LayerError
from sparsify_fx.living.moving import set_data
from sparsify_fx.programs.owners import programs

Kept = dict[str, dict[int, Tensor]]


@dataclass(frozen=True)
class Attribute:
    """A number of a module, or a list of them, that depends on a width: `module.name` was `before` and is `after`."""

    module: str
    name: str
    before: int | list[int] | tuple[int, ...]
    after: int | list[int] | tuple[int, ...]


@dataclass(frozen=True)
class Shrunk:
    """What `shrink` did.

    Attributes:
        shapes: the original shapes of the tensors that were cut, by name.
        kept: {name: {axis: the slices that stayed}}.
        attributes: numbers of modules that changed with them.
        notes: what stayed although nothing reads it, and why.
        parameters: (before, after) of the whole model.
        mixing: names of the weights that read channels, and are zero where those were cut.
    """

    shapes: dict[str, tuple[int, ...]]
    kept: Kept = field(repr=False)
    attributes: tuple[Attribute, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()
    parameters: tuple[int, int] = (0, 0)
    mixing: tuple[str, ...] = field(default=(), repr=False)

    @property
    def changed(self) -> bool:
        """Whether any tensor is smaller now."""
        return bool(self.shapes)

    def full_state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """The state of the shrunk model in the original shapes: zeros where weights were cut.

        Vectors, with one value for each channel, have that of the first channel that stayed instead of zeros.

        An unshrunk model that loads it has the same outputs, since nothing reads what was cut. Raises LayerError as
        `undo` does.
        """
        self._check(model)
        return {
            name: self._full(name, value) if name in self.shapes else value
            for name, value in model.state_dict().items()
        }

    def undo(self, model: nn.Module) -> None:
        """Give a shrunk model its original shapes back, in place, with the values that it has now.

        Optimizers have state of the smaller shapes, and are built anew. Raises LayerError for a model with weight
        programs, and for one that is not as this shrink left it: another one, one that was cut again, or that has its
        original shapes already.
        """
        self._check(model)
        replace_tensors(model, self.shapes, self._full)
        for item in self.attributes:
            setattr(model.get_submodule(item.module), item.name, item.before)

    def to_dict(self) -> dict[str, Any]:
        """Plain, JSON-ready values, which `from_dict` reads."""
        return {
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "kept": {
                name: {str(axis): index.tolist() for axis, index in axes.items()}
                for name, axes in self.kept.items()
            },
            "attributes": [list(vars(item).values()) for item in self.attributes],
            "notes": list(self.notes),
            "parameters": list(self.parameters),
            "mixing": list(self.mixing),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Shrunk:
        """The map that `to_dict` wrote down."""
        kept = {
            name: {int(axis): torch.tensor(index) for axis, index in axes.items()}
            for name, axes in stored["kept"].items()
        }
        before, after = stored["parameters"]
        return cls(
            {name: tuple(shape) for name, shape in stored["shapes"].items()},
            kept,
            tuple(Attribute(*item) for item in stored["attributes"]),
            tuple(stored["notes"]),
            (before, after),
            tuple(stored.get("mixing", ())),
        )

    def _check(self, model: nn.Module) -> None:
        """Raise LayerError for a model to which the map does not belong."""
        _check_plain(model)
        left = {name: self._left(name) for name in self.shapes}
        _check_shapes(model, left, "give that model, and undo the last shrink first")

    def _left(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor after the cut."""
        kept, shape = self.kept[name], self.shapes[name]
        return tuple(len(kept[a]) if a in kept else n for a, n in enumerate(shape))

    def _full(self, name: str, value: Tensor) -> Tensor:
        shape, kept = self.shapes[name], self.kept[name]
        result = value.new_zeros(shape)
        # One value for each channel, such as a variance, may be divided by: nothing reads what comes of it, but NaN
        # times zero is NaN. That of a channel that stayed is a value that the model can do with.
        if math.prod(shape) == max(shape) and name not in self.mixing:
            result += value.flatten()[0]
        result[grid(kept, shape)] = value
        return result


def _check_shapes(
    model: nn.Module, shapes: Mapping[str, tuple[int, ...]], advice: str
) -> None:
    """Raise LayerError where tensors of the model have other shapes than these."""
    tensors = named_tensors(model)
    for name, shape in shapes.items():
        found = tuple(tensors[name].shape) if name in tensors else None
        if found != shape:
            raise LayerError(
                f"{name} has the shape {found} here, and {shape} in the model that was shrunk; {advice}"
            )


def as_before(model: nn.Module, like: Shrunk) -> Shrunk:
    """What to cut of a plain model so that it has the shapes of the one that was shrunk.

    Raises LayerError for one that did not have the shapes of that one before.
    """
    if not isinstance(like, Shrunk):
        raise LayerError(
            f"like= is a {type(like).__name__}; expected what shrink returned, or Shrunk.from_dict of its to_dict()"
        )
    advice = "build it as that one was, and where that was shrunk several times repeat all of them in order"
    _check_shapes(model, like.shapes, advice)
    before = count(model)
    return replace(like, notes=(), parameters=(before, before - lost(model, like.kept)))


def _check_plain(model: nn.Module) -> None:
    if programs(model):
        raise LayerError(
            f"{type(model).__name__} has weight programs, whose factors have no values where it was cut; call "
            "sparsify_fx.merge(model) first"
        )


def grid(kept: Mapping[int, Tensor], shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Indices of the kept block of a tensor of this shape."""
    chosen = [kept.get(axis, torch.arange(size)) for axis, size in enumerate(shape)]
    return torch.meshgrid(*chosen, indexing="ij")


def cut(value: Tensor, kept: Mapping[int, Tensor]) -> Tensor:
    """The slices of a tensor that stay, in the memory format that it has."""
    format = torch.contiguous_format
    if not value.is_contiguous():
        for dims, other in ((4, torch.channels_last), (5, torch.channels_last_3d)):
            if value.dim() == dims and value.is_contiguous(memory_format=other):
                format = other
    for axis, index in kept.items():
        value = value.index_select(axis, index.to(value.device))
    return value.contiguous(memory_format=format)


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under all their names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def replace_tensors(
    model: nn.Module, names: Collection[str], new: Callable[[str, Tensor], Tensor]
) -> None:
    """Give tensors the values that `new` makes of their names and of those that they have; tied ones stay tied."""
    made: dict[int, Tensor] = {}
    for name, tensor in named_tensors(model).items():
        if name not in names:
            continue
        # A parameter stays the same object under all its names; a buffer is another one, under each of them.
        if id(tensor) not in made:
            made[id(tensor)] = new(name, tensor.detach())
        elif isinstance(tensor, nn.Parameter):
            continue
        _set_tensor(model, name, made[id(tensor)])


def _set_tensor(model: nn.Module, name: str, value: Tensor) -> None:
    """Another value of another shape in the same parameter, so that optimizers and ties keep it."""
    path, _, own = name.rpartition(".")
    module = model.get_submodule(path)
    if own in module._parameters:
        parameter = module._parameters[own]
        assert parameter is not None
        set_data(parameter, value)
    else:
        module._buffers[own] = value


def lost(model: nn.Module, kept: Kept) -> int:
    """How many parameters a cut takes away, tied ones once."""
    total = 0
    for name, parameter in model.named_parameters():
        left = list(parameter.shape)
        for axis, index in kept.get(name, {}).items():
            left[axis] = len(index)
        total += parameter.numel() - math.prod(left)
    return total


def count(model: nn.Module) -> int:
    """The number of parameters, tied ones once."""
    return sum(math.prod(parameter.shape) for parameter in model.parameters())
