"""Where the tensors of a program lie: all entries of the weight, or the living ones alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, distributed, nn

from sparsify_fx.living.followers import movings
from sparsify_fx.living.moving import move, sources
from sparsify_fx.living.place import pick, place, places_of
from sparsify_fx.living.wrapping import data_parallel_holds
from sparsify_fx.parameterizations import Parameterization
from sparsify_fx.sharding import part, shard, sharded, whole, write_into

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
        """The places of the living entries in the flattened weight; None in full storage."""
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
        full = place(whole(tensor), places, mask)
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

        With a process group vectors never get shorter: the buckets of DistributedDataParallel have their lengths. And
        where masks change, no vector broadcasts to the weight: an average over parameters fails, as it must, in place
        of mixing the entries of a vector with those of a copy in full storage. No vector is empty: the largest gradient
        of a tensor without entries, for instance, is an error.
        """
        length = max(1, int(mask.count_nonzero()))
        if _grouped() and self.places() is not None:
            factor = getattr(self, self.parameterization.factors[0])
            length = max(int(factor.numel()), length)
        if getattr(self.plan, "changes", False):
            while length in (1, mask.shape[0]) and length < mask.numel():
                length += 1
        return length

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """As any module, but places that lost their values (`to_empty`) stay within the weight."""
        old = self.places()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        new = self.places()
        if old is not None and new is not None and old.is_meta and not new.is_meta:
            # A kernel writes where they say.
            new.copy_(torch.arange(new.numel(), device="cpu"))
        return self

    def too_short(self, mask: Tensor) -> str | None:
        """Why the vectors cannot hold the entries of this mask; None where they can.

        Raises nothing: whoever writes masks says it in an error of its own kind, before anything is written.
        """
        factor, places = getattr(self, self.parameterization.factors[0]), self.places()
        if places is None:
            return None
        # Entries would have to move from process to process.
        if sharded(factor) and not torch.equal(places_of(mask), places.to(mask.device)):
            return (
                "its mask lets other weights live than those whose vectors fully_shard has spread over the processes; "
                "load states and masks before you shard the model, take the seed of the saved training, or call "
                "sparsify_fx.apply(..., storage='full')"
            )
        if int(mask.count_nonzero()) <= factor.numel():
            return None
        if not data_parallel_holds(self.parameters()):
            return None
        return (
            f"{int(mask.count_nonzero())} weights would live where DistributedDataParallel has wrapped a vector of "
            f"{factor.numel()}, and its buckets cannot grow; load states and masks before you wrap the model, or call "
            'sparsify_fx.apply(..., storage="full")'
        )

    def fit(
        self, state_dict: dict[str, Any], prefix: str, assign: bool = False
    ) -> None:
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
        # Without values of its own it takes the tensors of the state dict, or nothing.
        if own.is_meta and not assign:
            return
        places, old = places_of(mask), self.places()
        # Without its mask a vector must be of the weights that live now.
        longest = (
            None if prefix + "mask" in state_dict or old is None else self.room(mask)
        )
        for name in self.per_entry():
            given = state_dict.get(prefix + name, mask)
            if given.shape != mask.shape and not _is_vector(
                given, places, mask.dim(), longest
            ):
                return
        if self._fits_shards(state_dict, prefix, mask):
            return
        # torch.distributed.checkpoint reads a file into the very tensors of the program, mask first or last: what is
        # there by now belongs to the new mask, and must not be moved as if it were of the old one.
        for name in self.per_entry():
            tensor = state_dict.get(prefix + name)
            if tensor is not None and _same_memory(tensor, getattr(self, name)):
                state_dict[prefix + name] = tensor.detach().clone()
        if self.places() is not None:
            relocate(self, mask if own.is_meta else mask.to(own.device))
        own_keys = [key for key in state_dict if key.startswith(prefix)]
        loaded = {key.removeprefix(prefix): state_dict[key] for key in own_keys}
        dead = self.dead(loaded)
        for name in self.per_entry():
            if name not in loaded:
                continue
            given = loaded[name]
            if given.shape != mask.shape:
                full = place(given, places, mask)
                given = torch.where(mask == 1, full, dead.get(name, 0.0))
            state_dict[prefix + name] = self.stored(given)

    def _fits_shards(
        self, state_dict: dict[str, Any], prefix: str, mask: Tensor
    ) -> bool:
        """Whether vectors are sharded, so that nothing moves; whole weights of the state dict become vectors."""
        if not any(map(sharded, self._parameters.values())) or self.places() is None:
            return False
        for name in self.per_entry():
            given, own = state_dict.get(prefix + name), getattr(self, name)
            if given is not None and given.shape == mask.shape:
                state_dict[prefix + name] = shard(self.stored(whole(given)), own)
        return True

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
            write_into(tensor, self.stored(value) if name in per_entry else value)

    def dead(self, loaded: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """What a dead entry of each factor holds: the split of zero (0-dimensional).

        Args:
            loaded: tensors that will take the place of the program's own.
        """
        names = self.per_entry()
        tensors = {**self._parameters, **self._buffers, **(loaded or {})}
        known = [t for n, t in tensors.items() if n in names and t is not None]
        zero = part(known[0], known[0]).new_zeros(())
        shared = {n: t.detach() for n, t in tensors.items() if isinstance(t, Tensor)}
        others = {**shared, **dict.fromkeys(names, zero)}
        return self.parameterization.split(zero, others)


def _is_vector(tensor: Tensor, places: Tensor, axes: int, longest: int | None) -> bool:
    rest = [1] * (axes - 1)
    if list(tensor.shape[1:]) != rest or len(tensor) < places.numel():
        return False
    return longest is None or len(tensor) <= longest


def _grouped() -> bool:
    """Whether there is a process group, and so perhaps a DistributedDataParallel, which one process may use too."""
    return distributed.is_available() and distributed.is_initialized()


@torch.inference_mode(False)
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


@torch.inference_mode(False)
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


def _same_memory(one: Tensor, two: Tensor) -> bool:
    one, two = part(one, one), part(two, two)
    return one.device == two.device != torch.device("meta") and (
        one.untyped_storage().data_ptr() == two.untyped_storage().data_ptr()
    )
