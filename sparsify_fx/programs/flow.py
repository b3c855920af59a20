"""Whether a masked net still has a path from its input to its output."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sparsify_fx.programs.example_inputs import Example
from sparsify_fx.programs.positive_copy import positive, positive_copy
from sparsify_fx.randomness import undisturbed

Masks = Mapping[str, Tensor]

# Random inputs and weights before a net counts as cut: in a single draw a max may always pick the other branch.
_TRIES = 3
# What passes on what it gets: activations that could be shut, noise, and norms, which by taking away the mean or the
# scale would hide that outputs depend on an input.
_PASSED_ON: frozenset[Callable[..., Any]] = frozenset(
    [
        *(
            F.relu,
            F.relu_,
            torch.relu,
            torch.relu_,
            Tensor.relu,
            Tensor.relu_,
            F.relu6,
            F.hardtanh,
            F.hardtanh_,
        ),
        *(
            F.leaky_relu,
            F.leaky_relu_,
            F.prelu,
            F.rrelu,
            F.elu,
            F.elu_,
            F.celu,
            F.selu,
            F.gelu,
            F.silu,
            F.mish,
        ),
        *(F.hardswish, F.threshold, F.softshrink, F.hardshrink),
        *(
            F.dropout,
            F.dropout1d,
            F.dropout2d,
            F.dropout3d,
            F.alpha_dropout,
            F.feature_alpha_dropout,
        ),
        *(
            F.batch_norm,
            F.layer_norm,
            F.group_norm,
            F.instance_norm,
            F.rms_norm,
            F.local_response_norm,
        ),
        *(
            torch.batch_norm,
            torch.layer_norm,
            torch.group_norm,
            torch.instance_norm,
            torch.dropout,
        ),
    ]
)
# Their outputs, and on the way back the gradients, are divided by the largest entry: deep nets neither vanish nor
# overflow.
_SCALED: frozenset[Callable[..., Any]] = frozenset(
    [
        *(
            F.linear,
            F.bilinear,
            torch.matmul,
            Tensor.matmul,
            Tensor.__matmul__,
            torch.bmm,
            torch.addmm,
            torch.einsum,
        ),
        *(torch.conv1d, torch.conv2d, torch.conv3d),
        *(torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d),
    ]
)
# Their inputs are whole numbers, where no gradient arrives.
_LOOKED_UP: frozenset[Callable[..., Any]] = frozenset(
    [F.embedding, torch.embedding, F.embedding_bag]
)


def reaches_output(
    model: nn.Module, masks: Masks, examples: Iterable[Example]
) -> bool | None:
    """Whether some output depends on the input through the weights that the masks keep; None: nobody can tell.

    A copy of the model gets positive random numbers for all weights, times their masks, and a positive random input.
    Activations and norms pass on what they get; so nothing cancels or is shut, and the gradient of the outputs in the
    input is zero where no path leads. The first example that the model takes counts. A net that looks cut with full
    masks too is nothing that this can judge, and neither is one that cannot be copied or run.

    Args:
        model: plain or rewritten, not changed; its hooks do not run.
        masks: by the name of the weight, 1 where it is kept.

    >>> net, masks = nn.Linear(2, 1), {"weight": torch.zeros(1, 2)}
    >>> reaches_output(net, masks, [((torch.zeros(1, 2),), {})])
    False
    """
    # Foreign code runs here, for a warning alone: whatever it raises, the training goes on without an answer.
    with contextlib.suppress(Exception), _undisturbed(model):
        for example in examples:
            answer = _connected(model, masks, example)
            if answer is not None:
                # A net that looks cut with full masks too has something that this cannot judge.
                return answer or (None if not _connected(model, {}, example) else False)
    return None


def surely_connected(masks: Masks) -> bool:
    """Whether all rows and columns of all weights keep something: then no unit is cut off on either side."""
    for mask in masks.values():
        kept = mask.bool().reshape(1, -1) if mask.dim() < 2 else mask.bool()
        if not (
            kept.flatten(1).any(1).all()
            and kept.transpose(0, 1).flatten(1).any(1).all()
        ):
            return False
    return True


def _connected(model: nn.Module, masks: Masks, example: Example) -> bool | None:
    """True when a gradient arrives in one of several tries; None when the model does not take the example."""
    device = next(iter(model.parameters())).device
    # Seeded, so that every rank and every resumed training comes to the same answer.
    for seed in range(_TRIES):
        generator = torch.Generator().manual_seed(seed)
        flow = _Flow(generator, device)
        try:
            net = positive_copy(model, masks, generator)
            with flow:
                outputs = net(
                    *map(flow.placed, example[0]),
                    **{k: flow.placed(v) for k, v in example[1].items()},
                )
            arrives = flow.arrives(outputs)
        except Exception:
            return None
        # A gradient proves a path; its absence is believed only when it is absent each time.
        if arrives:
            return True
    return False


class _Flow(TorchFunctionMode):
    """Runs a net so that a gradient comes back wherever a path leads; see `reaches_output`."""

    def __init__(self, generator: torch.Generator, device: torch.device) -> None:
        super().__init__()
        self.generator, self.device = generator, device
        self.leaves: list[Tensor] = []

    def __torch_function__(
        self,
        function: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        # The input is the first argument of all of them.
        if function in _PASSED_ON:
            return args[0] if args else named["input"]
        result = function(*args, **named)
        # Products of many positive numbers leave the range of float32 within some twenty layers.
        if function in _SCALED and isinstance(result, Tensor) and result.numel():
            result = _scaled(result)
            if result.requires_grad:
                result.register_hook(_scaled)  # type: ignore[no-untyped-call]
            return result
        if function in _LOOKED_UP and isinstance(result, Tensor):
            # Word numbers have no gradient, so the rows that were looked up take the place of the input.
            return self._leaf(result)
        return result

    def placed(self, value: Any) -> Any:
        """An argument for the net: floating tensors become positive random ones, to which the gradient goes."""
        if not isinstance(value, Tensor):
            return value
        if not value.is_floating_point():
            return value.to(self.device)
        return self._leaf(positive(value, self.generator).to(self.device))

    def _leaf(self, value: Tensor) -> Tensor:
        self.leaves.append(value.detach().requires_grad_())
        # A copy, since the net may change it in place, which a leaf does not allow.
        return self.leaves[-1].clone()

    def arrives(self, outputs: Any) -> bool:
        """Whether the outputs, weighted at random so that none cancel, have a gradient in the input."""
        found = [
            output
            for output in _tensors(outputs)
            if output.is_floating_point() and output.requires_grad
        ]
        # Whole-number outputs (an argmax) tell nothing of where they came from.
        if not found or not self.leaves:
            return False
        weighted = [
            (output * positive(output, self.generator)).sum().to(self.device)
            for output in found
        ]
        gradients = torch.autograd.grad(
            torch.stack(weighted).sum(), self.leaves, allow_unused=True
        )
        arrived = [
            gradient.abs().amax()
            for gradient in gradients
            if gradient is not None and gradient.numel()
        ]
        # Inf or NaN is no answer either way; raised, it makes the example count as one that cannot be run.
        if not all(bool(torch.isfinite(most)) for most in arrived):
            raise ArithmeticError("the flow overflows")
        return any(bool(most > 0) for most in arrived)


def _scaled(value: Tensor) -> Tensor:
    largest = value.detach().abs().amax()
    # Entries that are all zero are what is looked for, and stay zero.
    return value / torch.where(largest == 0, 1, largest)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)


@contextlib.contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Gradients, full precision and no compiler, whatever the training switched on; random states are given back."""
    devices = sorted(
        {
            parameter.get_device()
            for parameter in model.parameters()
            if parameter.is_cuda
        }
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(undisturbed(devices))
        # An evaluation, mixed precision or no_grad may surround the place where a pruning happens.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in {parameter.device.type for parameter in model.parameters()}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        # cuDNN's recurrent layers have no gradient in evaluation mode.
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield
