"""Where the tensors of a program lie: all entries of the weight, or the living ones alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, distributed, nn

from sparsify_fx.living.followers import movings
from sparsify_fx.living.kernels import picked, placed
from sparsify_fx.living.place import pick, place, places_of
from sparsify_fx.parameterizations import Parameterization

LIVING = "living"  # the buffer with the places of the living entries; no checkpoint holds it, the mask tells it


class Stored(nn.Module):
    """The storage side of a `WeightProgram`.

    Full storage: factors, and those tensors of the state that have a value for each entry, have the weight's shape.
    Living storage: they are vectors over the entries that the mask keeps, in their order, of shape [n, 1, 1, ...] with
    as many axes as the weight. So rules that go by the number of axes, weight decay among them, see what they saw.
    n may be larger than the number of living entries: what is behind them is room, and takes no part.
    """

    parameterization: Parameterization
    plan: Any

    def places(self) -> Tensor | None:
        """The places of the living entries in the flattened weight, rising; None in full storage."""
        return self._buffers.get(LIVING)

    def full_shape(self) -> torch.Size:
        """The shape of the weight."""
        name = "mask" if self.places() is not None else self.parameterization.factors[0]
        tensor: Tensor = getattr(self, name)
        return tensor.shape

    def stored(self, full: Tensor) -> Tensor:
        """A tensor of the weight's shape as the factors are stored: itself in full storage, else the living entries.

        Room at the end is filled with zeros (False).
        """
        places = self.places()
        if places is None:
            return full
        factor = getattr(self, self.parameterization.factors[0])
        return pick(full.detach(), places, factor.shape)

    def restored(self, tensor: Tensor, dead: float | Tensor = 0.0) -> Tensor:
        """The inverse of `stored`, with `dead` at the entries that are not stored."""
        places, mask = self.places(), self._buffers.get("mask")
        if places is None:
            return tensor
        assert mask is not None
        full = place(tensor.detach(), places, mask)
        return torch.where(mask == 1, full, dead)

    def factor_mask(self) -> Tensor | None:
        """Which entries of the factors as they are stored take part (uint8); None: all, or there is no mask."""
        places, mask = self.places(), self._buffers.get("mask")
        if places is None or mask is None:
            return mask
        shape = getattr(self, self.parameterization.factors[0]).shape
        if shape.numel() == places.numel():
            return None
        numbers = torch.arange(shape.numel(), device=places.device).view(shape)
        return (numbers < places.numel()).to(torch.uint8)

    def per_entry(self) -> tuple[str, ...]:
        """The names of the factors and of the state that has a value for each entry."""
        factors = self.parameterization.factors
        shape = getattr(self, factors[0]).shape
        state = [
            name
            for name, tensor in self._buffers.items()
            if name not in ("mask", LIVING)
            and tensor is not None
            and tensor.dim() > 0
            and tensor.shape == shape
        ]
        return (*factors, *state)

    def in_full(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """These tensors of the program as they would be in full storage: dead entries hold the split of zero."""
        if self.places() is None:
            return dict(tensors)
        own, dead = set(self.per_entry()), self.dead()
        return {
            name: self.restored(tensor, dead.get(name, 0.0)) if name in own else tensor
            for name, tensor in tensors.items()
        }

    def room(self, mask: Tensor) -> int:
        """The length of the vectors for this mask: the number of its living entries, and sometimes more.

        With several processes vectors never get shorter: the buckets of DistributedDataParallel have their lengths. And
        where masks change, no vector broadcasts to the weight: an average over parameters fails, as it must, in place
        of mixing the entries of a vector with those of a copy in full storage.
        """
        length = int(mask.count_nonzero())
        if _processes() > 1 and self.places() is not None:
            factor = getattr(self, self.parameterization.factors[0])
            length = max(int(factor.numel()), length)
        if getattr(self.plan, "changes", False) and length < mask.numel():
            length += length in (1, mask.shape[0])
        return length

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        """As any module, but room at the end of vectors is in no checkpoint."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        places = self.places()
        if places is None or keep_vars:
            return
        for name in self.per_entry():
            if prefix + name in destination:
                destination[prefix + name] = destination[prefix + name][
                    : places.numel()
                ]

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """As any module, but places that lost their values (`to_empty`) stay within the weight."""
        old = self.places()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        new = self.places()
        if old is not None and new is not None and old.is_meta and not new.is_meta:
            # A kernel writes where they say.
            new.copy_(torch.arange(new.numel()))
        return self

    def fit(
        self, state_dict: dict[str, Any], prefix: str, assign: bool = False
    ) -> None:
        """Bring the entries of a state dict, of either storage, into that of this program; its mask says which live.

        In living storage the vectors take the length that the new mask needs. What does not fit stays as it is, for
        torch to say so.
        """
        own = self._buffers.get("mask")
        mask = state_dict.get(prefix + "mask", own)
        if own is None or mask is None or mask.shape != own.shape or mask.is_meta:
            return
        # Without values of its own it takes the tensors of the state dict, or nothing.
        if own.is_meta and not assign:
            return
        places = places_of(mask)
        for name in self.per_entry():
            given = state_dict.get(prefix + name, mask)
            if given.shape != mask.shape and not _is_vector(given, places, mask.dim()):
                return
        if self.places() is not None:
            relocate(self, mask if own.is_meta else mask.to(own.device))
        loaded = {
            key.removeprefix(prefix): value
            for key, value in state_dict.items()
            if key.startswith(prefix)
        }
        dead = self.dead(loaded)
        for name in self.per_entry():
            if name not in loaded:
                continue
            given = loaded[name]
            if given.shape != mask.shape:
                full = place(given, places, mask)
                given = torch.where(mask == 1, full, dead.get(name, 0.0))
            state_dict[prefix + name] = self.stored(given)

    @torch.no_grad()
    def put_back(self, known: Mapping[str, Tensor]) -> None:
        """Set the mask and all other tensors in place, given as full storage has them."""
        own, per_entry = {**self._parameters, **self._buffers}, self.per_entry()
        mask = own.get("mask")
        if mask is not None and self.places() is not None:
            relocate(self, known["mask"].to(mask.device))
        for name, value in known.items():
            tensor = own[name]
            assert tensor is not None
            value = value.to(tensor.device)
            tensor.copy_(self.stored(value) if name in per_entry else value)

    def dead(self, loaded: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """What a dead entry of each factor holds: the split of zero (0-dimensional).

        Args:
            loaded: tensors that will take the place of the program's own.
        """
        names = self.per_entry()
        tensors = {**self._parameters, **self._buffers, **(loaded or {})}
        zero = next(t for n, t in tensors.items() if n in names).new_zeros(())
        shared = {n: t.detach() for n, t in tensors.items() if isinstance(t, Tensor)}
        others = {**shared, **dict.fromkeys(names, zero)}
        return self.parameterization.split(zero, others)


def _is_vector(tensor: Tensor, places: Tensor, axes: int) -> bool:
    rest = [1] * (axes - 1)
    return list(tensor.shape[1:]) == rest and len(tensor) >= places.numel()


def _processes() -> int:
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return distributed.get_world_size()


def relocate(program: Stored, mask: Tensor) -> None:
    """Let a program in living storage hold the living entries of another mask; the mask itself stays to be written.

    Entries that live before and after keep their values, with their gradients and the state that optimizers have of
    them; new ones hold the split of zero.
    """
    old = program.places()
    assert old is not None
    new = places_of(mask)
    # On the meta device entries have no values that could move.
    known = new.new_empty(0) if old.is_meta else old
    move_entries(program, sources(known, new, program.room(mask)))
    if old.shape == new.shape and old.device.type not in ("cpu", "meta"):
        old.copy_(new)  # compiled graphs of such devices know its address
    else:
        # Never written in place on the CPU: what was found out about places is kept with the tensor.
        program._buffers[LIVING] = new


def move_entries(
    program: Stored, source: Tensor, shape: torch.Size | None = None
) -> None:
    """Let everything that has a value for each entry hold the entries `source` of itself, see `move`."""
    following = movings(
        [getattr(program, name) for name in program.parameterization.factors]
    )
    dead = program.dead()
    for name in program.per_entry():
        move(getattr(program, name), source, dead.get(name, 0.0), shape)
    for moving in following:
        moving.to(source, shape)


def sources(old: Tensor, new: Tensor, length: int) -> Tensor:
    """For each of `length` new entries its number among the old ones; −1 where the place is new, or there is none."""
    if old.numel() == 0 or new.numel() == 0:
        return torch.full((length,), -1, dtype=torch.int64, device=new.device)
    # Through a table of all places: two passes over memory, where a search among the old ones would jump about in it.
    # It is numbered from 1, so that 0 is what is not there.
    size = 1 + max(int(old[-1]), int(new[-1]))
    numbers = torch.arange(1, old.numel() + 1, dtype=old.dtype, device=old.device)
    table = placed(numbers, old, torch.Size([size]))
    return picked(table, new, into=new.new_zeros(length)).long() - 1


@torch.no_grad()
def move(
    tensor: Tensor,
    source: Tensor,
    fresh: float | Tensor = 0.0,
    shape: torch.Size | None = None,
) -> None:
    """Let a tensor hold the entries `source` of itself, flattened, in place; `fresh` where that is −1.

    A tensor whose shape stays keeps its memory. A gradient moves along, and is zero where entries are new.

    Args:
        shape: the new shape; None: that of a vector, [n, 1, ...].
    """
    gradient = tensor.grad if tensor.is_leaf else None
    new = _moved(tensor.detach(), source, fresh, shape)
    if new.shape == tensor.shape:
        tensor.copy_(new)
        if gradient is not None:
            gradient.copy_(_moved(gradient, source, 0.0, shape))
        return
    set_data(tensor, new)
    if gradient is not None:
        tensor.grad = _moved(gradient, source, 0.0, shape)


def _moved(
    tensor: Tensor, source: Tensor, fresh: float | Tensor, shape: torch.Size | None
) -> Tensor:
    source = source.to(tensor.device)
    taken = tensor.reshape(-1)[source.clamp(min=0)] if tensor.numel() else None
    value = torch.as_tensor(fresh, dtype=tensor.dtype, device=tensor.device)
    flat = value if taken is None else torch.where(source >= 0, taken, value)
    flat = flat.expand(source.numel()).contiguous()
    # State may be kept flattened, whatever the axes of the weight.
    if shape is not None and len(shape) == tensor.dim():
        return flat.view(shape)
    return flat.view(-1, *[1] * (tensor.dim() - 1))


def set_data(tensor: Tensor, new: Tensor) -> None:
    """`tensor.data = new` for another shape; the gradient is gone.

    A graph that is still alive (a loss that the loop has kept) holds the node that collects this parameter's gradient,
    and with it the old shape. torch forgets that node when the type changes, not when the shape does.
    """
    tensor.grad = None
    if tensor.requires_grad:
        other = torch.float64 if new.dtype != torch.float64 else torch.float32
        tensor.data = torch.empty(0, dtype=other, device=new.device)
    tensor.data = new
