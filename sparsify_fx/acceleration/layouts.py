"""Layers between sparse ones that take images side by side as they lie, where torch's own kernels would rearrange them.

Sparse kernels give [n, c, h, w] with strides (1, hwn, wn, n), see `sparsify_fx.living.products.shapes`. Sums and
activations keep that. To batch norm the values of a channel lie one after another, see `living.products.norms`. To
pooling it is c images of n channels, [c, n, h, w] in channels_last, which torch has fast kernels for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.living.place import is_plain
from sparsify_fx.living.products.native import TYPES
from sparsify_fx.living.products.norms import by_torch, normed, normed_backward
from sparsify_fx.living.products.shapes import lies_side_by_side

_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)


def follow_images(model: nn.Module) -> None:
    """Let batch norms and poolings of torch itself take images side by side; others work as they did."""
    for module in model.modules():
        kind = _FOLLOWING.get(type(module))
        # What somebody has put in the place of the forward is left alone.
        if (
            kind is not None
            and "forward" not in module.__dict__
            and not getattr(module, "return_indices", False)
        ):
            module.__class__ = kind


def forget_images(model: nn.Module) -> None:
    """Undo `follow_images`."""
    for module in model.modules():
        if type(module) in _FOLLOWING.values():
            module.__class__ = _base(module)


def _following(base: type[nn.Module], forward: Any) -> type[nn.Module]:
    """A class of the same name and module, so that tracers take it for a layer of torch."""
    names = ("__module__", "__qualname__", "__doc__")
    members = {name: getattr(base, name) for name in names}
    return type(
        base.__name__,
        (base,),
        {**members, "forward": forward, "__reduce_ex__": _reduced},
    )


def _base(module: nn.Module) -> type[nn.Module]:
    base: type[nn.Module] = type(module).__bases__[0]
    return base


def _reduced(self: nn.Module, protocol: Any) -> Any:
    # A class of the same name would be looked for in torch, which has the other one.
    return _restored, (_base(self),), self.__dict__


def _restored(base: type[nn.Module]) -> nn.Module:
    made = base.__new__(base)
    made.__class__ = _FOLLOWING[base]
    return made


def gradient_beside(inputs: Tensor) -> Tensor:
    """The tensor itself, whose gradient will lie side by side as it does.

    torch's operators give gradients in the layout of the first that they are given: one from a mean at the end of a net
    would be passed on along every shortcut, and every sum and activation on the way would rearrange it.
    """
    result: Tensor = _GradientBeside.apply(inputs)
    return result


class _GradientBeside(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        return inputs.view_as(inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)


def _beside(inputs: Any) -> bool:
    return (
        isinstance(inputs, Tensor)
        and inputs.dim() == 4
        and inputs.device.type == "cpu"
        # Compilers write code of their own for any strides.
        and not torch.compiler.is_compiling()
        and not inputs.is_contiguous()
        and lies_side_by_side(inputs)
    )


def _normed(self: nn.BatchNorm2d, input: Tensor) -> Tensor:
    if not _beside(input) or not _takes(input, self):
        return nn.BatchNorm2d.forward(self, input)
    # What `nn.BatchNorm2d.forward` does around its operator.
    share = 0.0 if self.momentum is None else self.momentum
    counts = self.training and self.track_running_stats
    if counts and self.num_batches_tracked is not None:
        self.num_batches_tracked.add_(1)
        if self.momentum is None:
            share = 1.0 / float(self.num_batches_tracked)
    by_batch = self.training or self.running_mean is None
    kept = not self.training or self.track_running_stats
    running = (self.running_mean, self.running_var) if kept else (None, None)
    made: Tensor = _Normed.apply(
        input, self.weight, self.bias, *running, by_batch, share, self.eps
    )
    return made


def _takes(inputs: Tensor, norm: nn.BatchNorm2d) -> bool:
    """Whether all that the norm reads is what its kernels take; of what does not fit torch says what is wrong."""
    read = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    given = [each for each in read if each is not None]
    return (
        inputs.dtype in TYPES
        and is_plain(inputs)
        and all(len(each) == inputs.shape[1] for each in given)
        and all(each.dtype == torch.float32 and is_plain(each) for each in given)
    )


class _Normed(torch.autograd.Function):
    """Batch norm of images side by side; its result is no view, so that activations may write into it."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        inputs, weight, bias, mean, variance, by_batch, share, eps = arguments
        made, *saved = normed(
            _flat(inputs), weight, bias, (mean, variance), by_batch, share, eps
        )
        ctx.save_for_backward(inputs, weight, *saved)
        ctx.by_batch, ctx.eps = by_batch, eps
        # Not a view to autograd, which lets nobody write into views that come out of here.
        return _unflat(made, inputs).data

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        inputs, weight, mean, deviation = ctx.saved_tensors
        given = _flat(gradients[0]), _flat(inputs), weight
        moments = None if ctx.by_batch else (mean, deviation)
        wanted = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled() or not is_plain(gradients[0]):
            # A gradient of a gradient, and many gradients at once, are made by torch's own operators.
            found = by_torch(*given, moments, ctx.eps)
            back, *others = (
                g if w else None for g, w in zip(found, wanted, strict=True)
            )
        else:
            back, *others = normed_backward(
                *given, (mean, deviation), ctx.by_batch, wanted
            )
        back = None if back is None else _unflat(back, inputs)
        return back, *others, None, None, None, None, None


def _flat(images: Tensor) -> Tensor:
    """[n, c, h, w] side by side as [c, h w n]."""
    return images.permute(1, 2, 3, 0).reshape(images.shape[1], -1)


def _unflat(flat: Tensor, like: Tensor) -> Tensor:
    images, *others = like.shape
    return flat.view(*others, images).permute(3, 0, 1, 2)


def _pooled(self: nn.Module, input: Tensor) -> Tensor:
    forward = _base(self).forward
    if not _beside(input):
        return forward(self, input)  # type: ignore[no-any-return]
    turned = gradient_beside(input).transpose(0, 1)
    return forward(self, turned).transpose(0, 1)  # type: ignore[no-any-return]


_FOLLOWING: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: _following(nn.BatchNorm2d, _normed),
    **{pool: _following(pool, _pooled) for pool in _POOLS},
}
