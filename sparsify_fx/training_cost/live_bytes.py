"""Which tensors are alive during a step: every allocation that an operator of torch returns, and its end.

A TorchDispatchMode sees the outputs of all operators, in forward, backward and the optimizer. What an operator
allocates for itself and frees before it returns is not seen. Tensors that share memory are counted once.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Numbers every storage in the order in which it is first seen, and notes when it comes and goes.

    Attributes:
        sizes: bytes by number.
        log: +number + 1 where a storage came, and −number − 1 where it went, in their order.

    >>> import torch
    >>> with LiveBytes([]) as live:
    ...     kept = torch.zeros(4)
    ...     _ = torch.ones(2) + 1
    >>> live.sizes, live.see(kept)
    ([16, 8, 8], 0)
    """

    def __init__(self, present: Iterable[Tensor]) -> None:
        """Start with the tensors that are there already."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: list[int] = []
        self.log: list[int] = []
        self._numbers: dict[int, int] = {}
        self._ends: list[Any] = []
        for tensor in present:
            self.see(tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the operator, and look at what it returns."""
        result = func(*args, **(kwargs or {}))
        for value in _pytree.tree_leaves(result):
            if isinstance(value, Tensor):
                self.see(value)
        return result

    def see(self, tensor: Tensor) -> int | None:
        """The number of a tensor's storage, which may be new; None for one without any bytes."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._numbers or not storage.nbytes():
            return self._numbers.get(key)
        number = self._numbers[key] = len(self.sizes)
        self.sizes.append(storage.nbytes())
        self.log.append(number + 1)
        # torch keeps the object of a storage as long as the storage itself, even if nobody in Python holds it.
        end = weakref.finalize(storage, self._gone, key, number)
        end.atexit = False
        self._ends.append(end)
        return number

    def close(self) -> None:
        """Stop noticing ends: what dies from now on died after the step."""
        for end in self._ends:
            end.detach()

    def _gone(self, key: int, number: int) -> None:
        del self._numbers[key]
        self.log.append(-number - 1)
