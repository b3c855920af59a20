"""Sharing: a weight that is read several times is computed once, within a span that is known to be safe.

Every read of a computed weight runs its program. Inside a span the first read keeps its result, and the next ones take
it, as long as the same tensors with the same contents would give it again.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from sparsify_fx.living.deferring import deferred
from sparsify_fx.living.linear import linear, pays
from sparsify_fx.living.place import is_plain
from sparsify_fx.living.stored import Stored
from sparsify_fx.programs.computed_weight import in_forward, protected
from sparsify_fx.programs.products import product
from sparsify_fx.programs.sharded import has_shards, in_full, on_shards

# Modules that hold a `forward` which reads a weight more than once and makes one result of it: recurrent layers (dtype
# check, kernel), attention (fast-path checks, kernel), standardized convolutions (statistics, shape).
REREADING = (
    "torch.nn.modules.rnn",
    "torch.nn.modules.activation",
    "timm.layers.std_conv",
)


@dataclass
class _Result:
    """What a program returned, and the tensors and their versions that it was made of.

    Attributes:
        outside: the weight as it reads outside of a forward, once it was read there.
    """

    made_of: tuple[Tensor, ...]
    versions: tuple[int, ...]
    weight: Tensor
    outside: Tensor | None = None

    def fits(self, tensors: tuple[Tensor, ...]) -> bool:
        """Whether a program with these tensors would return the same again."""
        # By identity, then by version: torch counts every write into a tensor, whoever makes it.
        same = len(tensors) == len(self.made_of) and all(
            map(_is, tensors, self.made_of)
        )
        return same and _versions(tensors) == self.versions


def _is(a: Tensor, b: Tensor) -> bool:
    return a is b


Key = tuple[int, bool, bool]


class _Span(threading.local):
    """The results of the span that this thread is in; None outside of one."""

    results: dict[Key, _Result] | None = None


_SPAN = _Span()


@contextmanager
def shared_weights() -> Iterator[None]:
    """Within this context a weight that is read several times is computed once.

    For models that call a layer several times or tie weights: put it around the forward (and the loss), as one would
    `torch.nn.utils.parametrize.cached()`. The results are the same; what changes is time and memory: effective weights
    live until the context ends. Optimizer steps, changed masks and `no_grad` inside are seen, and a backward pass ends
    the sharing of what it went through. One thing is not possible: two outputs of one context that have nothing but
    weights in common cannot be sent backward one after the other, unless the first keeps its graph
    (`retain_graph=True`) or the losses are added; torch says so. Under `torch.compile` the context does nothing, since
    the compiler joins equal computations by itself. Nothing is shared inside `torch.func` transforms and under
    saved-tensor hooks (activation checkpointing), which count on every read being computed.

    >>> import sparsify_fx
    >>> layer = sparsify_fx.apply(nn.Linear(2, 2), "random", sparsity=0.5)
    >>> with shared_weights():
    ...     layer.weight is layer.weight
    True
    """
    # The outermost span keeps the results until it ends; one within it has nothing to add.
    if _SPAN.results is not None:
        yield
        return
    _SPAN.results = {}
    try:
        yield
    finally:
        _SPAN.results = None


def computed(program: nn.Module) -> Tensor:
    """The weight that `program` returns, within a span from its last run if that still holds."""
    if has_shards(program):
        # Outside of a forward of FSDP: gathered, and its gradient goes to the shards.
        with on_shards([program]):
            return in_full(program())
    if torch.compiler.is_compiling() or _SPAN.results is None or not _shareable():
        return cast(Tensor, program())
    results = _SPAN.results
    # A weight that was computed without a graph must not be read where one is needed, nor the other way round.
    key = (id(program), torch.is_grad_enabled(), torch.is_inference_mode_enabled())
    made_of = (*program._parameters.values(), *program._buffers.values())
    tensors = tuple(tensor for tensor in made_of if tensor is not None)
    known = results.get(key)
    if known is not None and known.fits(tensors):
        return known.weight
    weight = cast(Tensor, program())
    # torch.fx traces with proxies, which belong to one trace.
    if isinstance(weight, Tensor):
        results[key] = _Result(tensors, _versions(tensors), weight)
        if weight.requires_grad:
            # A backward pass frees the graph that made the weight: whoever reads it afterwards needs a new one.
            weight.register_hook(lambda gradient: _forget(results, key))  # type: ignore[no-untyped-call]
    return weight


def as_read(weight: Tensor, owner: nn.Module, tensor: str) -> Tensor:
    """A computed weight for whoever reads the property: outside of a forward it refuses writes, which would be lost."""
    if (
        torch.compiler.is_compiling()
        or type(weight) is not Tensor
        or in_forward()
        or _observed()
    ):
        return weight
    described = f"{tensor} of this {type(owner).__name__}"
    # One object for one result: `layer.weight is layer.weight` holds within a span, as for a parameter.
    known = next(
        (
            result
            for result in (_SPAN.results or {}).values()
            if result.weight is weight
        ),
        None,
    )
    if known is None:
        return protected(weight, described)
    if known.outside is None:
        known.outside = protected(weight, described)
    return known.outside


def _forget(results: dict[Key, _Result], key: Key) -> None:
    results.pop(key, None)


def _versions(tensors: tuple[Tensor, ...]) -> tuple[int, ...]:
    return tuple(0 if tensor.is_inference() else tensor._version for tensor in tensors)


def _shareable() -> bool:
    """False where someone relies on every read being computed: checkpointing, tracers, modes, `torch.func`."""
    return (
        # Checkpointing runs a forward twice and matches what each saves; a read that was skipped would shift them.
        torch._C._autograd._top_saved_tensors_default_hooks(False) is None
        and not _observed()
    )


def _observed() -> bool:
    """Whether a tracer, a mode or a transform of `torch.func` sees every operation."""
    return bool(
        torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._is_tracing()
    )


def sharing_forward(base: type[nn.Module]) -> dict[str, Any]:
    """The class member `forward` of owners whose own forward reads a weight more than once; nothing for others."""
    forward: Callable[..., Any] = base.forward
    if forward is nn.Linear.forward:
        return {"forward": _linear_forward}
    if forward in (nn.Conv1d.forward, nn.Conv2d.forward):
        return {"forward": _conv_forward(forward)}
    if forward.__module__ not in REREADING:
        return {}

    @functools.wraps(forward)
    def shared(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return forward(self, *args, **kwargs)
        with shared_weights():
            return forward(self, *args, **kwargs)

    return {"forward": shared}


def _conv_forward(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward of a convolution, by sparse kernels where `sparsify_fx.accelerate` has chosen so."""

    @functools.wraps(forward)
    def by_products(self: nn.Module, input: Tensor) -> Any:
        made = _product(self, input)
        return forward(self, input) if made is None else made

    return by_products


def _product(layer: nn.Module, input: Tensor) -> Tensor | None:
    """By sparse kernels; None where they do not compute it, or where the weight is shared within a span."""
    # The compiler joins equal computations by itself: it must not look at the span, or it compiles again within one.
    if torch.compiler.is_compiling() or _SPAN.results is None:
        return product(layer, input)
    return None


def _linear_forward(self: nn.Linear, input: Tensor) -> Tensor:
    """The forward of `nn.Linear`, which in living storage makes its weight's gradient in blocks where that pays."""
    made = _product(self, input)
    if made is not None:
        return made
    if torch.compiler.is_compiling():
        return nn.Linear.forward(self, input)
    # None where the weight is made of others, which have the programs: an old weight norm's.
    program = self._modules.get("weight_program")
    given = self._parameters.get("weight")
    fits = (
        program is not None
        and isinstance(program, Stored)
        and (places := program.places()) is not None
        and given is None
        and _SPAN.results is None
        and is_plain(input)
        and pays(program.get_buffer("mask"), places, input)
    )
    if not fits:
        return nn.Linear.forward(self, input)
    assert program is not None
    with deferred() as asked:
        values = program()
    # A pass may have let the program go on after the placing, with what only it knows.
    if len(asked) != 1 or asked[0][0] is not values:
        return nn.Linear.forward(self, input)
    if not all(each is None or is_plain(each) for each in asked[0]):
        return nn.Linear.forward(self, input)
    return linear(input, *asked[0], self.bias)
