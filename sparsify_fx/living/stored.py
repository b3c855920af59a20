"""Where the tensors of a program lie: all entries of the weight, or the living ones alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, distributed, nn

from sparsify_fx.living.place import pick, place, places_of
from sparsify_fx.living.wrapping import data_parallel_holds
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

    def room(self, mask: Tensor) -> int | None:
        """The length of the vectors for this mask; None: no longer than they need be.

        With a process group vectors never get shorter: the buckets of DistributedDataParallel have their lengths.
        """
        if not (distributed.is_available() and distributed.is_initialized()):
            return None
        factor = getattr(self, self.parameterization.factors[0])
        return max(int(factor.numel()), int(mask.count_nonzero()))

    def too_short(self, mask: Tensor) -> str | None:
        """Why the vectors cannot hold the entries of this mask; None where they can.

        Raises nothing: whoever writes masks says it in an error of its own kind, before anything is written.
        """
        factor = getattr(self, self.parameterization.factors[0])
        if self.places() is None or int(mask.count_nonzero()) <= factor.numel():
            return None
        if not data_parallel_holds(self.parameters()):
            return None
        return (
            f"{int(mask.count_nonzero())} weights would live where DistributedDataParallel has wrapped a vector of "
            f"{factor.numel()}, and its buckets cannot grow; load states and masks before you wrap the model, or call "
            'sparsify_fx.apply(..., storage="full")'
        )

    def fit(self, state_dict: dict[str, Any], prefix: str, assign: bool) -> None:
        """Bring the entries of a state dict, of either storage, into that of this program; its mask says which live.

        In living storage the vectors take the length that the new mask needs. What does not fit stays as it is, for
        torch to say so.

        Args:
            assign: whether the tensors of the state dict will take the place of those of the program.
        """
        own = self._buffers.get("mask")
        mask = state_dict.get(prefix + "mask", own)
        if own is None or mask is None or mask.shape != own.shape or mask.is_meta:
            return
        places, names = places_of(mask), self.per_entry()
        vector = torch.Size([places.numel(), *[1] * (mask.dim() - 1)])
        given = {n: state_dict[prefix + n] for n in names if prefix + n in state_dict}
        # torch.distributed.checkpoint reads a file into the very tensors of the program, mask first or last: what is
        # there by now belongs to the new mask, and must not be moved as if it were of the old one.
        for name, tensor in given.items():
            if _same_memory(tensor, getattr(self, name)):
                state_dict[prefix + name] = given[name] = tensor.detach().clone()
        if any(tensor.shape not in (mask.shape, vector) for tensor in given.values()):
            return
        if self.places() is not None:
            if not own.is_meta:
                relocate(self, mask.to(own.device), self.room(mask))
            elif assign:
                self._begin_at(places, vector)
        dead = self.dead()
        for name, tensor in given.items():
            # A vector for vectors that are no longer is taken as it is.
            if tensor.shape == vector == getattr(self, name).shape:
                continue
            full = tensor
            if tensor.shape != mask.shape:
                zero = torch.as_tensor(dead.get(name, 0.0)).to(tensor.device)
                full = torch.where(mask == 1, place(tensor, places, mask), zero)
            state_dict[prefix + name] = self.stored(full.to(getattr(self, name).device))

    def _begin_at(self, places: Tensor, vector: torch.Size) -> None:
        """Vectors without values, on the meta device, for entries at `places`; values will be assigned."""
        for name in self.per_entry():
            tensor = getattr(self, name)
            set_data(tensor, tensor.detach().new_empty(vector))
        self._buffers[LIVING] = places

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """As any module; places that come from the meta device have no values yet, and must not lead anywhere."""
        before = self.places()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        after = self.places()
        if before is not None and after is not None and before.is_meta > after.is_meta:
            after.zero_()
        return self

    def dead(self) -> dict[str, Tensor]:
        """What a dead entry of each factor holds: the split of zero (0-dimensional)."""
        names = self.per_entry()
        zero = getattr(self, names[0]).detach().new_zeros(())
        tensors = {**self._parameters, **self._buffers}
        shared = {n: t.detach() for n, t in tensors.items() if t is not None}
        others = {**shared, **dict.fromkeys(names, zero)}
        return self.parameterization.split(zero, others)


def _same_memory(one: Tensor, two: Tensor) -> bool:
    return one.device == two.device != torch.device("meta") and (
        one.untyped_storage().data_ptr() == two.untyped_storage().data_ptr()
    )


def relocate(program: Stored, mask: Tensor, room: int | None = None) -> Tensor:
    """Let a program in living storage hold the living entries of another mask; the mask itself stays to be written.

    Entries that live before and after keep their values, gradients as well; new ones hold the split of zero.

    Args:
        room: the length of the vectors, at least the number of living entries; None: exactly that.

    Returns where each entry of the new vectors was in the old ones; −1 for what is new, and for room.
    """
    old = program.places()
    assert old is not None
    new = places_of(mask)
    length = new.numel() if room is None else room
    source = sources(old, new, length)
    names = program.per_entry()
    dead = program.dead()
    for name in names:
        move(getattr(program, name), source, dead.get(name, 0.0))
    if old.shape == new.shape and old.device.type != "cpu":
        old.copy_(new)  # compiled graphs of such devices know its address
    else:
        # Never written in place on the CPU: what was found out about places is kept with the tensor.
        program._buffers[LIVING] = new
    return source


def sources(old: Tensor, new: Tensor, length: int) -> Tensor:
    """For each of `length` new entries its number among the old ones; −1 where the place is new, or there is none."""
    if old.numel() == 0 or new.numel() == 0:
        return torch.full((length,), -1, dtype=torch.int64, device=new.device)
    number = torch.searchsorted(old, new).clamp_(max=old.numel() - 1)
    found = torch.where(old[number] == new, number, -1)
    return nn.functional.pad(found, (0, length - new.numel()), value=-1)


@torch.no_grad()
def move(tensor: Tensor, source: Tensor, fresh: float | Tensor = 0.0) -> None:
    """Let a vector (shape [n, 1, ...]) hold the entries `source` of itself, in place; `fresh` where that is −1.

    A vector of the same length keeps its memory. A gradient moves along, and is zero where entries are new.
    """
    gradient = tensor.grad if tensor.is_leaf else None
    new = _moved(tensor.detach(), source, fresh)
    if new.shape == tensor.shape:
        tensor.copy_(new)
        if gradient is not None:
            gradient.copy_(_moved(gradient, source, 0.0))
        return
    set_data(tensor, new)
    if gradient is not None:
        tensor.grad = _moved(gradient, source, 0.0)


def _moved(tensor: Tensor, source: Tensor, fresh: float | Tensor) -> Tensor:
    taken = tensor.reshape(-1)[source.clamp(min=0)] if tensor.numel() else None
    value = torch.as_tensor(fresh, dtype=tensor.dtype, device=tensor.device)
    flat = value if taken is None else torch.where(source >= 0, taken, value)
    flat = flat.expand(source.numel()).contiguous()
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
