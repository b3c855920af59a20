"""Shards: the part of a tensor that this process holds, as `torch.distributed.tensor.DTensor` has it.

What is read of a DTensor as a number is not what it seems: in torch 2.14 `float(x.sum())` is the sum of the own shard,
since the result is `Partial` and `item()` does not reduce it. And operations on a DTensor with fewer rows than there
are processes gather it. So what is computed here is computed on the parts, which are plain tensors.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def sharded(tensor: object) -> TypeGuard[DTensor]:
    """Whether a tensor is spread over processes.

    >>> sharded(torch.ones(2))
    False
    """
    # From sys.modules: importing DTensor takes long, and where nobody has imported it no tensor is one.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def whole(tensor: Tensor) -> Tensor:
    """All entries as a plain tensor, detached, gathered from all processes of the mesh; every one of them must call it.

    >>> whole(torch.ones(2))
    tensor([1., 1.])
    """
    values: Any = tensor.detach()
    found: Tensor = values.full_tensor() if sharded(tensor) else values
    return found


def part(tensor: Tensor, like: Tensor) -> Tensor:
    """The entries of `tensor` that belong to this process if it lies as `like` does; plain, and a view where it can be.

    Args:
        tensor: a shard already (what `like` holds comes back), or whole on every process. An axis of one entry, and
            a tensor without axes, are for all shards.
        like: sharded; of any other tensor, `tensor` itself comes back.
    """
    if sharded(tensor):
        values: Any = tensor.detach()
        with torch.no_grad():
            found: Tensor = values.to_local()
        return found
    if not sharded(like) or tensor.dim() != like.dim():
        return tensor
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(
        like.shape, like.device_mesh, like.placements
    )
    for axis, (start, length) in enumerate(zip(offset, shape, strict=True)):
        # What is of the shard's size already, or broadcasts, stays.
        if tensor.shape[axis] == like.shape[axis] != length:
            # Behind the last entry the offset of an empty shard is as large as the axis.
            tensor = tensor.narrow(axis, min(start, like.shape[axis]), length)
    return tensor


def shard(tensor: Tensor, like: Tensor) -> Tensor:
    """`tensor` spread over the processes as `like` is, without communication; itself where `like` is plain.

    Args:
        tensor: whole and equal on every process, or the own part, of the shape that `part` gives.
    """
    if not sharded(like) or sharded(tensor):
        return tensor
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        part(tensor, like),
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )


def replicated(tensor: Tensor, like: Tensor) -> Tensor:
    """A DTensor of a tensor that is equal on every process; itself where `like` is plain."""
    if not sharded(like) or sharded(tensor):
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    placements = [Replicate()] * like.device_mesh.ndim
    return DTensor.from_local(tensor, like.device_mesh, placements, run_check=False)


def matching(tensor: Tensor, like: Tensor) -> Tensor:
    """`tensor` as `like` is: sharded alike, or whole."""
    if not sharded(like):
        return whole(tensor)
    if not sharded(tensor):
        return shard(tensor, like)
    # An operation on a DTensor with fewer rows than there are processes gives one that all of them have whole.
    values: Any = tensor
    alike: Tensor = values.redistribute(placements=like.placements)
    return alike


@torch.no_grad()
def write_into(tensor: Tensor, values: Tensor) -> None:
    """Copy `values`, whole or sharded alike, into a tensor that may be sharded."""
    part(tensor, tensor).copy_(part(values, tensor))


def summed(numbers: Tensor, like: Tensor) -> Tensor:
    """The sum of what every process that holds another shard of `like` gives; the same on all of them.

    Args:
        numbers: integers; sums of floating numbers would depend on the backend.
    """
    return _reduced(numbers, like, "sum")


def lowest(numbers: Tensor, like: Tensor) -> Tensor:
    """The least of what every process gives, as `summed`."""
    return _reduced(numbers, like, "min")


def _reduced(numbers: Tensor, like: Tensor, how: str) -> Tensor:
    if not sharded(like):
        return numbers
    from torch.distributed.tensor import DTensor, Partial, Replicate

    # Where a mesh has an axis of copies too (HSDP), those count once.
    placements: list[Any] = [
        Partial(how) if each.is_shard() else Replicate() for each in like.placements
    ]
    made = DTensor.from_local(
        numbers.to(part(like, like).device),
        like.device_mesh,
        placements,
        run_check=False,
    )
    return made.full_tensor()


def place_among_shards(like: Tensor) -> tuple[int, int]:
    """(number of this process's shard in the order of the entries, number of shards); (0, 1) for a plain tensor."""
    if not sharded(like):
        return 0, 1
    axis = next(
        number for number, each in enumerate(like.placements) if each.is_shard()
    )
    return like.device_mesh.get_local_rank(axis), like.device_mesh.size(axis)


def count(mask: Tensor) -> int:
    """Number of entries that are not zero, over all processes.

    >>> count(torch.tensor([1, 0, 1]))
    2
    """
    if not sharded(mask):
        return int(mask.count_nonzero())
    return int(summed(part(mask, mask).count_nonzero(), mask))
