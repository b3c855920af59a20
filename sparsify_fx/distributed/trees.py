"""Sums of gradients in an order of their own, which the number of processes does not change.

A batch is K micro-batches. Their gradients are added by halves, (g₁ + g₂) + (g₃ + g₄), and an odd number of them one
after the other. Where N processes, N a power of two that divides K, each have K / N consecutive ones, every process
adds a subtree of the same tree, and the sums have the same bits for every such N.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.futures import Future

from sparsify_fx.distributed.replicas import group

if TYPE_CHECKING:
    from torch._C._distributed_c10d import GradBucket


def tree_sum(terms: Sequence[Tensor]) -> Tensor:
    """The sum by halves, as far as their number is even, then one after the other.

    >>> tree_sum([torch.tensor(float(i)) for i in range(6)])
    tensor(15.)
    """
    if len(terms) % 2 == 0:
        half = len(terms) // 2
        return tree_sum(terms[:half]) + tree_sum(terms[half:])
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def block_length(count: int) -> int:
    """How many of `count` consecutive micro-batches are added one after the other: the odd part of their number.

    >>> [block_length(count) for count in (1, 4, 6, 7)]
    [1, 1, 3, 7]
    """
    while count % 2 == 0:
        count //= 2
    return count


@dataclass
class PartialSums:
    """The gradients of the blocks of micro-batches that this process is done with, added up as far as the tree allows.

    Attributes:
        parameters: those that are trained; their `grad` holds the block at work.
        waiting: (blocks, their sum by the id of the parameter), the oldest first; each has fewer blocks than the one
            before.
    """

    parameters: Sequence[nn.Parameter]
    waiting: list[tuple[int, dict[int, Tensor]]] = field(default_factory=list)

    def keep(self) -> None:
        """Put aside the gradients of a block that is not the last, and leave none."""
        blocks, held = 1, dict[int, Tensor]()
        for parameter in self.parameters:
            if parameter.grad is not None:
                held[id(parameter)] = parameter.grad
                parameter.grad = None
        # As a carry in binary: two sums of equally many blocks are the halves of a larger one.
        while self.waiting and self.waiting[-1][0] == blocks:
            _, older = self.waiting.pop()
            for key, gradient in older.items():
                held[key] = gradient.add_(held[key]) if key in held else gradient
            blocks *= 2
        self.waiting.append((blocks, held))

    def add_to(self, parameter: Tensor, gradient: Tensor) -> None:
        """Add what waits to the gradient of the last block, in place."""
        # The youngest first: it is the sibling in the tree.
        for _, held in reversed(self.waiting):
            if id(parameter) in held:
                gradient.add_(held[id(parameter)])

    def finish(self) -> None:
        """Add what waits to the gradients of a process that is alone."""
        for parameter in self.parameters:
            if parameter.grad is not None:
                self.add_to(parameter, parameter.grad)
            elif any(id(parameter) in held for _, held in self.waiting):
                parameter.grad = torch.zeros_like(parameter)
                self.add_to(parameter, parameter.grad)
        self.waiting.clear()


def tree_hook(state: PartialSums, bucket: GradBucket) -> Future[Tensor]:
    """A communication hook for DistributedDataParallel: the sum over all micro-batches of all ranks, by the tree.

    The loss of each micro-batch is to be divided by their number over all ranks beforehand. As many bytes are sent as
    by an all-reduce.
    """
    for parameter, gradient in zip(
        bucket.parameters(), bucket.gradients(), strict=True
    ):
        state.add_to(parameter, gradient)
    if bucket.is_last():
        state.waiting.clear()
    buffer = bucket.buffer()
    ranks = group() or dist.group.WORLD
    assert ranks is not None
    sum_by_tree(ranks, buffer)
    devices: list[Any] = [buffer.device] if buffer.device.type != "cpu" else []
    future: Future[Tensor] = Future(devices=devices)
    future.set_result(buffer)
    return future


# DistributedDataParallel compares them with its classes, and these are texts.
tree_hook.__annotations__.clear()


def sum_by_tree(ranks: dist.ProcessGroup, flat: Tensor) -> None:
    """The sum of the ranks' tensors [n] by halves of the ranks, written into each of them."""
    size = dist.get_world_size(ranks)
    # Of two terms there is one sum.
    if size <= 2:
        dist.all_reduce(flat, group=ranks)
        return
    # Every rank gets its share of the entries from all, adds them up and gives the sums to all. An all-reduce of the
    # backend would send as much, but adds each part of the tensor in another order.
    share = -(-flat.numel() // size)
    own = flat.new_zeros(size * share)
    own[: flat.numel()] = flat
    pieces = torch.empty_like(own)
    dist.all_to_all_single(pieces, own, group=ranks)
    total = tree_sum(list(pieces.view(size, share)))
    dist.all_gather(list(own.view(size, share)), total, group=ranks)
    flat.copy_(own[: flat.numel()])


def trained(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """The parameters that get gradients."""
    return [parameter for parameter in parameters if parameter.requires_grad]
