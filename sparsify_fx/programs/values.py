"""What a weight program computes outside of a forward: its tensors, its weight before and under the mask, and writes.

Under FSDP factors are sharded between forwards. What has "in place" in its name, and every write, works on the shards
of each process and sends nothing; all else gathers the factors of this one weight, and every process must call it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparsify_fx.living.stored import LIVING, relocate
from sparsify_fx.parameterizations import Moment
from sparsify_fx.programs.saving import SavedState
from sparsify_fx.sharding import part, shard, sharded, whole


class Values(SavedState):
    """The side of a `WeightProgram` that reads and writes its tensors."""

    def current_mask(self) -> Tensor | None:
        """The mask (uint8, shape of the weight, 1 keeps), or None before `InsertMask`."""
        return self._buffers.get("mask")

    def factor_tensors(self) -> dict[str, nn.Parameter]:
        """The trainable factors by name, in the order of the parameterization; as they are stored, see `Stored`."""
        return {
            name: self.get_parameter(name) for name in self.parameterization.factors
        }

    def shared_tensors(self) -> dict[str, nn.Parameter]:
        """The other trainable tensors by name, such as thresholds."""
        return {
            name: self.get_parameter(name)
            for name in self._parameters
            if name not in self.parameterization.factors
        }

    def state_tensors(self) -> dict[str, Tensor]:
        """The parameterization's state by name, such as a temperature."""
        return {
            name: self.get_buffer(name)
            for name in self._buffers
            if name not in ("mask", LIVING)
        }

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the weight before the mask is made of, detached, in full shape, without noise.

        What is sharded is gathered: every process must call this, and all that is built on it.
        """
        return self._all(whole)

    def parts(self) -> dict[str, Tensor]:
        """As `tensors`, but of sharded factors the part of this process, and of other tensors what belongs to it."""
        like = self.sharded_like()
        return self._all(lambda tensor: part(tensor, tensor if like is None else like))

    def _all(self, read: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        state = self.state_tensors()
        # The weight of an evaluation: noise would make scores and exports another draw each time.
        if "noisy" in state:
            state["noisy"] = torch.zeros_like(state["noisy"])
        trained = {**self.factor_tensors(), **self.shared_tensors()}
        return self.in_full(
            {
                name: read(tensor.detach())
                for name, tensor in {**trained, **state}.items()
            }
        )

    def sharded_like(self) -> Tensor | None:
        """A factor, if the weight's entries are spread over processes; None in living storage, whose vectors are."""
        factor = self.get_parameter(self.parameterization.factors[0])
        return factor if sharded(factor) and self.places() is None else None

    def theta(self) -> Tensor:
        """The weight before the mask, detached."""
        return self._value(self.tensors())

    def effective(self) -> Tensor:
        """The weight that the layer sees in evaluation, detached, with exact +0.0 where the mask is 0."""
        return self._masked(self.theta())

    def like(self) -> Tensor:
        """A plain tensor of the weight's shape and dtype whose values do not count; it takes no memory."""
        factor = self.get_parameter(self.parameterization.factors[0])
        return part(factor, factor).new_zeros(()).expand(self.full_shape())

    def zeros(self) -> Tensor:
        """Zeros that lie as `theta_in_place` does."""
        theta = self.theta_in_place()
        return shard(torch.zeros_like(part(theta, theta)), theta)

    def theta_in_place(self) -> Tensor:
        """`theta`, sharded as the factors are; nothing is sent."""
        like = self.sharded_like()
        if like is None:
            return self.theta()
        return shard(self._value(self.parts()), like)

    def effective_in_place(self) -> Tensor:
        """`effective`, sharded as the factors are; nothing is sent."""
        like, mask = self.sharded_like(), self.current_mask()
        if like is None:
            return self.effective()
        theta = self._value(self.parts())
        if mask is not None:
            theta = torch.where(part(mask, like).bool(), theta, 0.0)
        return shard(theta, like)

    def settled(self) -> Tensor:
        """The effective weight that `settle` would leave."""
        tensors = self.tensors()
        return self._masked(
            self._value({**tensors, **self.parameterization.settle(tensors)})
        )

    @torch.no_grad()
    def settle(self) -> tuple[str, ...]:
        """Open or close the gates of the parameterization for good, in place; the names of the tensors written."""
        new = self.parameterization.settle(self.tensors())
        for name, value in new.items():
            self.put(name, value)
        return tuple(new)

    @torch.no_grad()
    def put(self, name: str, value: Tensor, where: Tensor | None = None) -> None:
        """Set a factor, given in the weight's shape, or a shared tensor in place; only at `where` (bool), if given."""
        tensor = self.get_parameter(name)
        if name in self.parameterization.factors:
            value = self.stored(value)
            where = None if where is None else self.stored(where)
        # What is sharded is written in its own part alone.
        value, where = (
            part(value, tensor),
            None if where is None else part(where, tensor),
        )
        own = part(tensor, tensor)
        own.copy_(value if where is None else torch.where(where, value, own))

    @torch.no_grad()
    def refresh(self, moment: Moment) -> None:
        """Let the parameterization change its state for the next optimizer step.

        Noise is drawn for all entries in both storages, so that an entry gets the same in each.
        """
        state = self.state_tensors()
        full = self.in_full(state) if state else state
        self.parameterization.refresh(full, moment)
        for name, tensor in state.items():
            if full[name] is not tensor:
                tensor.copy_(self.stored(full[name]))

    @torch.no_grad()
    def _value(self, tensors: dict[str, Tensor]) -> Tensor:
        value = self.parameterization.value(tensors)
        return value if isinstance(value, Tensor) else torch.as_tensor(value)

    def _masked(self, theta: Tensor) -> Tensor:
        mask = self.current_mask()
        return (
            theta
            if mask is None
            else torch.where(mask.bool(), theta, torch.zeros_like(theta))
        )

    @torch.no_grad()
    def write(self, theta: Tensor, where: Tensor | None = None) -> None:
        """Set the factors in place so that the value is `theta`; only at `where` (bool), if given.

        Shared tensors and state stay.

        Args:
            theta: whole, or sharded as the factors are.
        """
        like = self.sharded_like()
        known = self.tensors() if like is None else self.parts()
        theta = theta if like is None else part(theta, like)
        for name, new in self.parameterization.split(theta, known).items():
            self.put(name, new, where)

    @torch.no_grad()
    def set_mask(self, mask: Tensor) -> bool:
        """Write `mask` in place; entries pruned now, and regrown ones, hold the split of zero. True if it changed.

        A pruned entry must hold no old value: weight decay, EMA and regrowth would bring it back.
        """
        old = self.current_mask()
        assert old is not None, "set_mask needs InsertMask first"
        # Zero first: what is pruned must not keep a value, and what comes back must not find one.
        new = mask.to(device=old.device, dtype=old.dtype)
        changed = not torch.equal(old, new)
        if self.places() is None:
            self.write(self.zeros(), where=(old == 0) | (new == 0))
        elif changed:
            relocate(self, new)
        old.copy_(new)
        return changed
