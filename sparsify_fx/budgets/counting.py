"""Multiply-adds of one forward, by the weight that they are done with."""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from sparsify_fx.budgets.plain import Call, plain_copy, untouched_randomness
from sparsify_fx.criteria.objective import plain_kernels
from sparsify_fx.errors import LayerError

_aten = torch.ops.aten
# What makes another tensor of the same weight: casts, copies, and the norm of weight standardization.
_COPIES = {
    "_to_copy",
    "clone",
    "contiguous",
    "native_batch_norm",
    "_native_batch_norm_legit",
}
_COPIES |= {
    "cudnn_batch_norm",
    "native_group_norm",
    "native_layer_norm",
    "_reshape_copy",
}


@dataclass(frozen=True)
class Work:
    """Multiply-adds of a dense model for the inputs that it was counted on.

    Attributes:
        by_weight: by the name of the weight, every use of it added up; 0 for one that the forward does not multiply by.
        other: those of no weight, such as the products of queries, keys and values in attention.
    """

    by_weight: Mapping[str, int]
    other: int

    @property
    def total(self) -> int:
        """Those by weights and the others."""
        return sum(self.by_weight.values()) + self.other


def count_multiply_adds(model: nn.Module, call: Call) -> Work:
    """Multiply-adds of `model(*args, **kwargs)` in evaluation mode, by weight, as if no weight were zero.

    A convolution uses each weight once for every position of its output (a transposed one, of its input), padding
    included; a matrix product once a row. A tied weight counts with all its uses. The model is only read.

    Raises LayerError for inputs that the model does not take.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 16, 10))
    >>> count_multiply_adds(net, ((torch.ones(1, 3, 4, 4),), {})).by_weight
    {'0.weight': 3456, '2.weight': 1280}

    Source: the formulas of torch.utils.flop_counter.
    """
    copied = plain_copy(model)
    weights = {n: p for n, p in copied.named_parameters() if p.dim() > 1}
    counter = _Counter(weights)
    args, kwargs = _on_device(call, copied)
    with untouched_randomness(), _eager_kernels(copied), torch.no_grad(), counter:
        try:
            copied(*args, **kwargs)
        except Exception as error:
            told = (str(error).strip().splitlines() or ["no message"])[0]
            raise LayerError(
                f"{type(model).__name__} does not take the example inputs ({type(error).__name__}: {told}); give "
                "example_inputs= as its forward takes them: a tensor, a tuple of arguments, or a dict by name"
            ) from error
    return Work(dict(counter.by_weight), counter.other)


def _on_device(call: Call, model: nn.Module) -> Call:
    tensor = next(model.parameters(), None)
    if tensor is None:
        return call
    moved: Call = _pytree.tree_map_only(Tensor, lambda x: x.to(tensor.device), call)
    return moved


@contextlib.contextmanager
def _eager_kernels(model: nn.Module) -> Iterator[None]:
    """Attention and recurrent layers as the products that they consist of, not as one kernel that nobody can count."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with plain_kernels(model):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up multiply-adds while it is entered."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.by_weight = dict.fromkeys(weights, 0)
        self.other = 0
        self._sizes = {name: weight.numel() for name, weight in weights.items()}
        self._places = _Places(weights.items())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        # Under inference mode composite operators come whole; their parts are what has formulas.
        if packet not in flop_registry and packet is not _aten._trilinear:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        tensors = [
            x for x in _pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)
        ]
        if packet is _aten._trilinear:
            # Of a bilinear layer: each row of inputs meets every weight once.
            self._add(tensors, args[0].shape[0] * args[1].numel())
        elif packet in flop_registry:
            # A multiply-add is two operations there.
            self._add(tensors, flop_registry[packet](*args, **kwargs, out_val=out) // 2)
        else:
            self._follow(func, tensors, out)
        return out

    def _add(self, tensors: Iterable[Tensor], count: int) -> None:
        used = [name for name in map(self._places.find, tensors) if name is not None]
        if used:
            self.by_weight[used[0]] += count
        else:
            self.other += count

    def _follow(self, func: Any, tensors: Iterable[Tensor], out: Any) -> None:
        """A weight that was cast, scaled or standardized is the same weight."""
        if torch.Tag.pointwise not in func.tags and func._opname not in _COPIES:
            return
        for result in _pytree.tree_leaves(out):
            size = result.numel() if isinstance(result, Tensor) else 0
            # Of as many entries as the result there is the weight alone: beside another tensor of its size, such as the
            # values that a table of positions is added to, nobody can tell whose the result is.
            same = [tensor for tensor in tensors if tensor.numel() == size > 1]
            name = self._places.find(same[0]) if len(same) == 1 else None
            if name is not None and self._sizes[name] == size:
                self._places.add(name, result)


class _Places:
    """Where in memory the weights lie: views of them and parts of them are found by their address."""

    def __init__(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self._found: list[tuple[int, int, str]] = []
        # Held, so that no other tensor gets the memory of one while the model runs.
        self._held: list[Tensor] = []
        for name, weight in weights:
            self.add(name, weight)

    def add(self, name: str, tensor: Tensor) -> None:
        if tensor.numel() and self.find(tensor) is None:
            start = tensor.data_ptr()
            # The last entry and not the number of entries: a transposed copy need not be contiguous.
            last = sum(
                (size - 1) * stride
                for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
            )
            end = start + (last + 1) * tensor.element_size()
            bisect.insort(self._found, (start, end, name))
            self._held.append(tensor)

    def find(self, tensor: Tensor) -> str | None:
        if not tensor.numel():
            return None
        start = tensor.data_ptr()
        place = bisect.bisect(self._found, (start, float("inf"), "")) - 1
        if place < 0:
            return None
        _, end, name = self._found[place]
        return name if start < end else None
