"""What any rank wishes for at a step, known to all ranks at the next one, without any of them waiting for it."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sparsify_fx.distributed.replicas import group


class Wishes:
    """The largest of all ranks' wishes, whole numbers of which 0 is none; all ranks must build it and ask alike.

    >>> wishes = Wishes()
    >>> wishes.ask(2), wishes.now(0)
    (2, 0)
    """

    def __init__(self) -> None:
        ranks = group()
        self._ranks: dist.ProcessGroup | None = None
        self._work: Any = None
        self._answer: Tensor | None = None
        if ranks is not None:
            # Through the CPUs and apart from the gradients: it waits neither for a GPU nor for their order.
            made = dist.new_group(
                dist.get_process_group_ranks(ranks),
                backend="gloo",
                use_local_synchronization=True,
            )
            assert isinstance(made, dist.ProcessGroup)
            self._ranks = made

    def ask(self, wish: int) -> int:
        """Give this rank's wish; the largest of all ranks' at the call before, alone the wish itself.

        It travels while the next step is computed.
        """
        if self._ranks is None:
            return wish
        largest = self._taken()
        self._answer = torch.tensor([wish], device="cpu")
        self._work = dist.all_reduce(
            self._answer, dist.ReduceOp.MAX, self._ranks, async_op=True
        )
        return largest

    def now(self, wish: int) -> int:
        """The largest of all ranks' wishes, of those at the call before too."""
        if self._ranks is None:
            return wish
        largest = torch.tensor([max(wish, self._taken())], device="cpu")
        dist.all_reduce(largest, dist.ReduceOp.MAX, self._ranks)
        return int(largest)

    def _taken(self) -> int:
        """What the call before came to."""
        if self._work is None or self._answer is None:
            return 0
        self._work.wait()
        self._work = None
        return int(self._answer)
