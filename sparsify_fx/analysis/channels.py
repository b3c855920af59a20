"""Dead channels: outputs of a layer that say nothing about the input, or that nothing listens to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from sparsify_fx.errors import AnalysisError

# Relative; the same sum may round otherwise in another batch.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Channels:
    """Output channels of one layer, by number.

    without_weights: no kept weight leads into them.
    constant: they do not depend on the input (the former, and those that get nothing but constants).
    unheard: the gradient of the loss by them is zero for every sample.
    """

    channels: int
    without_weights: int
    constant: int
    unheard: int
    dead: int

    @property
    def collapsed(self) -> bool:
        """Every channel is dead: no signal passes this layer."""
        return self.dead == self.channels


def dead_channels(
    model: nn.Module,
    batches: Sequence[tuple[Tensor, Tensor]],
    loss_fn: Callable[[Any, Any], Tensor],
) -> dict[str, Channels]:
    """Count the dead channels of every convolution and linear layer that takes part in the forward pass.

    A channel c with outputs y_c is constant if `max y_c − min y_c` over all samples is zero at every position (up to
    rounding), and unheard if `∂L/∂y_c` is zero for every sample and position; dead is one that is either. So dead
    inputs, ReLUs that are never active, zero scales of batch norm and pruned outgoing weights all count, without
    knowing how the layers are connected.

    Args:
        model: plain, in eval mode; it stays as it is.
        batches: inputs [n, ...] and targets; at least two samples.

    Raises AnalysisError for fewer samples, or a model without such layers.

    Source: layer collapse: [Tanaka 2020] (SynFlow), section 3.
    """
    if sum(len(targets) for _, targets in batches) < 2:
        raise AnalysisError(
            "dead channels need at least two samples to compare; give more --samples"
        )
    # 1. Hooks on every layer. They see outputs and gradients of all samples without keeping them.
    layers = {
        n: m
        for n, m in model.named_modules()
        if isinstance(m, (nn.Linear, _ConvNd)) and m.weight is not None
    }
    seen = {name: _Seen() for name in layers}
    hooks = [
        module.register_forward_hook(_watch(seen[name]))
        for name, module in layers.items()
    ]

    # 2. Forward and backward. The gradient by the inputs is asked for too, so that it passes every layer: that
    # by the weights alone would end before a frozen first layer.
    try:
        with torch.enable_grad():
            for inputs, targets in batches:
                given = inputs.detach().clone()
                given.requires_grad_(inputs.is_floating_point())
                loss = loss_fn(model(given), targets)
                # `grad` and not `backward`, which would leave gradients in the model.
                trained = [p for p in model.parameters() if p.requires_grad]
                asked = [given, *trained] if given.requires_grad else trained
                torch.autograd.grad(loss, asked, allow_unused=True)
    finally:
        # Also after an error: hooks would stay in the model.
        for hook in hooks:
            hook.remove()

    # 3. Count, in layers that were called: a part of the model that this input does not reach is not dead.
    found = {
        name: _count(layers[name], seen[name]) for name in layers if seen[name].calls
    }
    if not found:
        raise AnalysisError(
            f"{type(model).__name__} has no convolution or linear layer to look at"
        )
    return found


@dataclass
class _Seen:
    """Smallest and largest outputs by channel and position in each call; largest gradient by channel."""

    calls: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    gradient: Tensor | None = None


def _watch(seen: _Seen) -> Callable[[nn.Module, Any, Tensor], None]:
    """A forward hook that notes a layer's outputs, and their gradient once it comes."""

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        def listen(gradient: Tensor) -> None:
            # Over samples and positions: one that hears the channel is enough.
            size = _by_channel(module, gradient).abs().amax((0, 2))
            seen.gradient = (
                size if seen.gradient is None else torch.maximum(seen.gradient, size)
            )

        values = _by_channel(module, output.detach())
        seen.calls.append((values.amin(0), values.amax(0)))
        output.register_hook(listen)  # type: ignore[no-untyped-call]

    return hook


def _by_channel(module: nn.Module, output: Tensor) -> Tensor:
    """[samples, channels, positions]: linear layers have their channels last, convolutions second (first unbatched)."""
    if isinstance(module, nn.Linear):
        output = output.movedim(-1, 1) if output.ndim > 1 else output[None]
    return output.reshape(*output.shape[:2], -1)


def _count(module: nn.Module, seen: _Seen) -> Channels:
    """What the hooks have noted of one layer, in numbers."""
    shapes = {low.shape for low, _ in seen.calls}
    assert seen.gradient is not None
    # The same positions in every call: constant means over all of them. Calls of other sizes, as with
    # images of several shapes or a shared layer, compare only within themselves.
    if len(shapes) == 1:
        low = torch.stack([low for low, _ in seen.calls]).amin(0)
        high = torch.stack([high for _, high in seen.calls]).amax(0)
        constant = _equal(low, high)
    else:
        constant = torch.stack([_equal(low, high) for low, high in seen.calls]).all(0)
    unheard = seen.gradient == 0
    empty = int((_incoming(module) == 0).sum())
    return Channels(
        len(unheard),
        empty,
        int(constant.sum()),
        int(unheard.sum()),
        int((constant | unheard).sum()),
    )


def _equal(low: Tensor, high: Tensor) -> Tensor:
    """Whether a channel's extremes are equal up to rounding at every position, [channels]."""
    size = torch.maximum(low.abs(), high.abs()).amax(1)
    return (high - low).amax(1) <= _ROUNDING * size


@torch.no_grad()
def _incoming(module: nn.Module) -> Tensor:
    """Number of non-zero weights into each output channel."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    # Transposed convolutions have [in, out / groups, ...]: outputs of all groups are moved to the front.
    if isinstance(module, _ConvTransposeNd):
        grouped = weight.reshape(module.groups, -1, *weight.shape[1:])
        weight = grouped.transpose(1, 2).flatten(0, 1)
    return torch.count_nonzero(weight.flatten(1), dim=1)
