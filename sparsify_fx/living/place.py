"""place and pick: a weight from its living entries and back, as differentiable operations.

    place(v)[i] = v[k] where i is the k-th living entry, and 0 elsewhere        pick(W)[k] = W[i]

Each is the transpose of the other, so each is the other's gradient: what flows back into dead entries is never formed.
A program whose value is the product of two factors has them multiplied on the way, and their gradients made on the way
back: place(v, factor=u) is place(v u), to the bit.
"""

from __future__ import annotations

import weakref
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from sparsify_fx.errors import LayerError
from sparsify_fx.living.deferring import is_deferred
from sparsify_fx.living.kernels import picked, picked_product, placed
from sparsify_fx.living.remembered import Remembered

# The mask that places were made of, and its version then: what torch counts of its writes.
_MADE_OF: Remembered[tuple[weakref.ref[Tensor], int]] = Remembered()


def places_of(mask: Tensor) -> Tensor:
    """Where a mask lives: the flat positions of its ones, rising; int32 where that is enough.

    >>> places_of(torch.tensor([[1, 0], [0, 1]]))
    tensor([0, 3], dtype=torch.int32)
    """
    found = mask.reshape(-1).nonzero().reshape(-1)
    return found.to(torch.int32) if mask.numel() < 2**31 else found


def check_places(places: Tensor, mask: Tensor) -> None:
    """LayerError where the mask was written in place, so that values would be placed where others belong.

    It costs a look at a table, and a comparison where the mask has another version than when it was last looked at.
    """
    # The gradient of a gradient is placed in a shape, not by a mask.
    if mask.dtype != torch.uint8 or mask.is_meta or mask.is_inference():
        return
    known = _MADE_OF.get(places)
    if known is not None and known[0]() is mask and known[1] == mask._version:
        return
    with torch.inference_mode(False):
        if not torch.equal(places_of(mask), places):
            raise LayerError(
                f"the mask of a weight of shape {tuple(mask.shape)} was written in place, so that nobody knows where "
                "the values in living storage belong; load states with model.load_state_dict(...), also those that "
                "torch.distributed.checkpoint has read in place, and take storage='full' for masks of your own"
            )
    _MADE_OF.put(places, (weakref.ref(mask), mask._version))


def place(
    values: Tensor, places: Tensor, mask: Tensor, factor: Tensor | None = None
) -> Tensor:
    """The weight (shape of `mask`) whose living entries are `values`, times `factor`; +0.0 where the mask is 0.

    Args:
        values: one for each of `places`, in any shape; any floating dtype.
        places: `places_of(mask)`.
        mask: uint8, for its shape alone.
        factor: of the shape of `values`.

    >>> mask = torch.tensor([[1, 0], [0, 1]])
    >>> place(torch.tensor([2.0, 3.0]), places_of(mask), mask)
    tensor([[2., 0.],
            [0., 3.]])
    """
    given: Any = values
    if isinstance(given, fx.Proxy):
        # torch traces the code of a program when it unpickles one: this must be a node of it, as it was.
        factors = () if factor is None else (factor,)
        arguments = (values, places, mask, *factors)
        node = given.tracer.create_proxy("call_function", place, arguments, {})
        return cast(Tensor, node)
    if is_deferred(values, places, mask, factor):
        check_places(places, mask)
        return values
    whole = places.numel() == mask.numel()
    if factor is not None:
        if is_plain(values) and _multiplies(values, factor) and not whole:
            check_places(places, mask)
            product: Tensor = _PlaceProduct.apply(values, factor, places, mask)
            return _laid_out(product, mask)
        values = values * factor
    # What is exported must run where there is no sparsify_fx, so it gets torch's own operators.
    exporting = torch.compiler.is_exporting()
    if torch.compiler.is_compiling() and not exporting and values.device.type == "cpu":
        made: Tensor = torch.ops.sparsify_fx.place(values, places, mask)
        return _laid_out(made, mask)
    if is_plain(values):
        check_places(places, mask)
        if whole:
            # Nothing is dead: they are the weight.
            return _laid_out(values.reshape(mask.shape), mask)
        result: Tensor = _Place.apply(values, places, mask)
        return _laid_out(result, mask)
    # Function transforms, tracing and compilers of other devices see torch's own operators.
    flat = values.reshape(-1)[: places.numel()]
    dense = values.new_zeros(mask.numel())
    return dense.index_copy(0, places.long(), flat).view(mask.shape)


def _multiplies(values: Tensor, factor: Tensor) -> bool:
    """Whether the kernels may read both, and their product is entry by entry."""
    return (
        is_plain(factor)
        and values.shape == factor.shape
        and values.dtype == factor.dtype
    )


def _laid_out(weight: Tensor, mask: Tensor) -> Tensor:
    """The weight in the memory format of the mask, which `model.to(memory_format=...)` changes as it does weights'."""
    if mask.dim() != 4 or mask.is_contiguous():
        return weight
    if not mask.is_contiguous(memory_format=torch.channels_last):
        return weight
    return weight.contiguous(memory_format=torch.channels_last)


def pick(dense: Tensor, places: Tensor, shape: torch.Size) -> Tensor:
    """The living entries of a tensor of the weight's shape, in `shape`; zeros behind them where that has room.

    >>> pick(torch.tensor([[2.0, 5.0], [5.0, 3.0]]), torch.tensor([0, 3]), torch.Size([2, 1]))
    tensor([[2.],
            [3.]])
    """
    if dense.layout != torch.strided:
        dense = dense.to_dense()  # the gradient of an embedding with sparse=True
    if torch.compiler.is_compiling() and dense.device.type == "cpu":
        found: Tensor = torch.ops.sparsify_fx.pick(dense, places, shape.numel())
        return found.view(shape)
    if is_plain(dense):
        if places.numel() == dense.numel():
            return dense.reshape(shape)
        result: Tensor = _Pick.apply(dense, places, shape)
        return result
    vector = dense.reshape(-1).index_select(0, places)
    return nn.functional.pad(vector, (0, shape.numel() - places.numel())).view(shape)


def is_plain(tensor: Tensor) -> bool:
    """Whether the kernels may read its memory: an ordinary tensor, and nobody is watching."""
    return (
        # First: the compiler cannot follow what comes behind.
        not torch.compiler.is_compiling()
        and type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.layout == torch.strided
        and not tensor.is_meta
        # Many gradients at once (`is_grads_batched`) come as tensors without one.
        and torch._C._has_storage(tensor)
        # Their memory says something else than they do.
        and not tensor.is_neg()
        and not tensor._is_zerotensor()
        and not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch._C._is_tracing()
        and torch.autograd.forward_ad._current_level < 0
    )


class _Place(torch.autograd.Function):
    """place, with pick as its gradient; both can be derived again."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, places: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.shape = values.shape
        return placed(values, places, mask.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (places,) = ctx.saved_tensors
        return pick(gradients[0], places, ctx.shape), None, None


class _PlaceProduct(torch.autograd.Function):
    """place of a product; backward the entries are picked and multiplied at once."""

    @staticmethod
    def forward(
        ctx: Any, one: Tensor, other: Tensor, places: Tensor, mask: Tensor
    ) -> Tensor:
        ctx.save_for_backward(one, other, places)
        return placed(one, places, mask.shape, other)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        one, other, places = ctx.saved_tensors
        both = ctx.needs_input_grad[0] and ctx.needs_input_grad[1]
        if torch.is_grad_enabled() or not both or not is_plain(gradients[0]):
            found = pick(gradients[0], places, one.shape)
            return found * other, found * one, None, None
        flat = (one.reshape(-1), other.reshape(-1))
        into = empty_vector(flat[0], places), empty_vector(flat[1], places)
        picked_product(gradients[0], places, flat, into)
        return *(each.view(one.shape) for each in into), None, None


def empty_vector(vector: Tensor, places: Tensor) -> Tensor:
    """As long as the vector; zeros behind the living entries where there is room."""
    exact = len(vector) == places.numel()
    return vector.new_empty(len(vector)) if exact else torch.zeros_like(vector)


class _Pick(torch.autograd.Function):
    """pick, with place as its gradient."""

    @staticmethod
    def forward(ctx: Any, dense: Tensor, places: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(places)
        ctx.shape = dense.shape
        return picked(dense, places, dense.new_zeros(shape).view(-1)).view(shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (places,) = ctx.saved_tensors
        like = gradients[0].new_empty(()).expand(ctx.shape)
        return place(gradients[0], places, like), None, None


# For the compiler on CPUs: operators that it does not look into, since its own code for a scatter clears the whole
# tensor first and then goes through it again.


@torch.library.custom_op("sparsify_fx::place", mutates_args=())
def _place(values: Tensor, places: Tensor, mask: Tensor) -> Tensor:
    return placed(values, places, mask.shape)


@torch.library.custom_op("sparsify_fx::pick", mutates_args=())
def _pick(dense: Tensor, places: Tensor, length: int) -> Tensor:
    return picked(dense, places, dense.new_zeros(length))


@_place.register_fake
def _(values: Tensor, places: Tensor, mask: Tensor) -> Tensor:
    return values.new_empty(mask.shape)


@_pick.register_fake
def _(dense: Tensor, places: Tensor, length: int) -> Tensor:
    return dense.new_empty(length)


def _save_places(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.shape = inputs[0].shape


def _place_backward(ctx: Any, gradient: Tensor) -> Any:
    (places,) = ctx.saved_tensors
    found = torch.ops.sparsify_fx.pick(gradient, places, ctx.shape[0])
    return found.view(ctx.shape), None, None


def _pick_backward(ctx: Any, gradient: Tensor) -> Any:
    (places,) = ctx.saved_tensors
    like = gradient.new_empty(()).expand(ctx.shape)
    return torch.ops.sparsify_fx.place(gradient, places, like), None, None


_place.register_autograd(_place_backward, setup_context=_save_places)
_pick.register_autograd(_pick_backward, setup_context=_save_places)
