"""Whether a layer computes with sparse kernels or with its whole weight, which depends on zeros, sizes and machine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparsify_fx.living.kernels import picked, placed
from sparsify_fx.living.products.native import layer_of
from sparsify_fx.living.products.shapes import Shape, Window

_LOG = logging.getLogger(__name__)

AUTO, ALWAYS = "auto", "always"
MODES = (AUTO, ALWAYS)
# Multiply-adds of a sparse kernel take this many times as long as those of a dense one, roughly.
_SLOWER = 2.5
# Estimates beyond these are believed; between them, steps of both kinds are timed.
_SURELY_FASTER, _SURELY_SLOWER = 3.0, 0.6
# Dense multiply-adds below which a call costs more than its work, so that no estimate is believed.
_LEAST_WORK = 1 << 20
# What a sparse step must gain by a timing: its neighbors lay out images anew for it, and timings waver.
_LEAST_GAIN = 1.1
# Of steps that are timed the fastest counts: others were interrupted.
_ROUNDS = 3
# A decision holds until the number of living weights is so much another one, as a share of itself.
_HOLDS = 0.1


@dataclass(frozen=True)
class Decision:
    """What was decided for a layer and a shape.

    Attributes:
        sparse: whether sparse kernels are used.
        living: how many weights lived then.
        faster: how many times as fast a sparse step is as a dense one.
        timed: whether that was measured, not estimated.
    """

    sparse: bool
    living: int
    faster: float
    timed: bool


@dataclass
class Choice:
    """What a layer does: sparse kernels always, or where they are faster.

    Attributes:
        name: of the layer, for the log.
        mode: one of `MODES`.
        tensors: the names of values, places, mask and perhaps factor among the tensors of the weight's program, where
            it does nothing but place them.
        known: what was decided, by shape and by the dtype of images.
        last: what was decided last, which compiled models go by.
    """

    name: str
    mode: str = AUTO
    tensors: tuple[str, ...] = ()
    known: dict[tuple[Shape, torch.dtype], Decision] = field(default_factory=dict)
    last: bool = False

    def takes(
        self,
        shape: Shape,
        inputs: Tensor,
        weight: tuple[Tensor, Tensor, Tensor, Tensor | None],
        window: Window,
    ) -> bool:
        """Whether these inputs go through sparse kernels; decided at the first ones of a shape and a sparsity."""
        if self.mode == ALWAYS:
            return True
        # Nothing can be timed while a graph is traced.
        if torch.compiler.is_compiling():
            return self.last
        living = weight[1].numel()
        found = self.known.get((shape, inputs.dtype))
        if found is None or abs(living - found.living) > _HOLDS * found.living:
            found = _decided(shape, inputs, weight, window)
            self.known[shape, inputs.dtype] = found
            _LOG.info(
                "%s: %s weights of %d, a sparse step is %.2f times as fast (%s)",
                self.name,
                "sparse kernels on" if found.sparse else "dense products with",
                living,
                found.faster,
                "measured" if found.timed else "estimated",
            )
        self.last = found.sparse
        return found.sparse


def estimate(shape: Shape, living: int) -> float:
    """How many times as fast a sparse step may be as a dense one, from the multiply-adds of both.

    >>> shape = Shape(16, 64, 16, 16, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1, 16, 16)
    >>> round(estimate(shape, 64 * 64 * 9 // 10), 1)
    4.0
    """
    rows, *others = shape.weight
    weights = rows * others[0] * others[1] * others[2]
    # Vectors are filled up with zeros.
    filled = -(-shape.images // 8) * 8 / shape.images
    return weights / (max(1, living) * _SLOWER * filled)


def _decided(
    shape: Shape,
    inputs: Tensor,
    weight: tuple[Tensor, Tensor, Tensor, Tensor | None],
    window: Window,
) -> Decision:
    living = weight[1].numel()
    expected = estimate(shape, living)
    sizes = shape.weight
    work = shape.images * shape.out_height * shape.out_width * sizes[0] * sizes[1]
    if expected < _SURELY_SLOWER:
        return Decision(False, living, expected, False)
    if expected > _SURELY_FASTER and work * sizes[2] * sizes[3] > _LEAST_WORK:
        return Decision(True, living, expected, False)
    with torch.no_grad():
        faster = _timed(shape, inputs.detach(), weight, window)
    return Decision(faster > _LEAST_GAIN, living, faster, True)


def _timed(
    shape: Shape,
    inputs: Tensor,
    weight: tuple[Tensor, Tensor, Tensor, Tensor | None],
    window: Window,
) -> float:
    """Seconds of a dense forward and backward over those of sparse ones."""
    values, places, mask, factor = weight
    gradient = inputs.new_zeros(shape.output)

    def dense() -> None:
        whole = placed(values, places, mask.shape, factor).to(inputs.dtype)
        found = _dense_step(shape, inputs, whole, gradient, window)
        picked(found.to(values.dtype), places, values.new_zeros(values.numel()))

    def sparse() -> None:
        layer = layer_of(places, shape)
        layer.forward(inputs, values, factor, None, True)
        layer.backward(gradient, inputs, values, factor, True, True)

    return _fastest(dense) / _fastest(sparse)


def _dense_step(
    shape: Shape, inputs: Tensor, whole: Tensor, gradient: Tensor, window: Window
) -> Tensor:
    """Forward and backward as the layer has them with its whole weight; the gradient of that."""
    if inputs.shape[2:] == gradient.shape[2:] == (1, 1) and whole.dim() == 2:
        # A linear layer's: as a convolution it would take up to three times as long.
        rows, back = inputs.flatten(1), gradient.flatten(1)
        for one, other in ((rows, whole.t()), (back, whole)):
            torch.mm(one, other)
        return torch.mm(back.t(), rows)
    weight = whole.view(shape.weight)
    torch.conv2d(inputs, weight, None, *window)
    found: Tensor
    _, found, _ = torch.ops.aten.convolution_backward(
        gradient, inputs, weight, None, window.stride, window.padding, window.dilation, False, (0, 0),
        window.groups, (True, True, False),
    )  # fmt: skip
    return found


def _fastest(step: Callable[[], None]) -> float:
    step()
    seconds = []
    for _ in range(_ROUNDS):
        begin = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begin)
    return max(min(seconds), 1e-9)
