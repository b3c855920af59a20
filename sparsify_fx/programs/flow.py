"""Whether a masked net still has a path from its input to its output."""

from __future__ import annotations

import contextlib
import copy
import functools
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sparsify_fx.programs.example_inputs import Example
from sparsify_fx.programs.owners import owners, program_of, programs, uninstall
from sparsify_fx.randomness import undisturbed

Masks = Mapping[str, Tensor]

_TRIES = 3  # random inputs and weights before a net counts as cut
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
    with contextlib.suppress(Exception), _undisturbed(model):
        for example in examples:
            answer = _connected(model, masks, example)
            if answer is not None:
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
    for seed in range(_TRIES):
        generator = torch.Generator().manual_seed(seed)
        flow = _Flow(generator, device)
        try:
            net = _positive_copy(model, masks, generator)
            with flow:
                outputs = net(
                    *map(flow.placed, example[0]),
                    **{k: flow.placed(v) for k, v in example[1].items()},
                )
            arrives = flow.arrives(outputs)
        except Exception:
            return None
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
        if function in _PASSED_ON:
            return args[0] if args else named["input"]
        result = function(*args, **named)
        if function in _SCALED and isinstance(result, Tensor) and result.numel():
            result = _scaled(result)
            if result.requires_grad:
                result.register_hook(_scaled)  # type: ignore[no-untyped-call]
            return result
        if function in _LOOKED_UP and isinstance(result, Tensor):
            return self._leaf(
                result
            )  # the numbers of words have no gradient, the rows of the table do
        return result

    def placed(self, value: Any) -> Any:
        """An argument for the net: floating tensors become positive random ones, to which the gradient goes."""
        if not isinstance(value, Tensor):
            return value
        if not value.is_floating_point():
            return value.to(self.device)
        return self._leaf(_positive(value, self.generator).to(self.device))

    def _leaf(self, value: Tensor) -> Tensor:
        self.leaves.append(value.detach().requires_grad_())
        return self.leaves[-1].clone()  # which the net may change in place

    def arrives(self, outputs: Any) -> bool:
        """Whether the outputs, weighted at random so that none cancel, have a gradient in the input."""
        found = [
            output
            for output in _tensors(outputs)
            if output.is_floating_point() and output.requires_grad
        ]
        if not found or not self.leaves:
            return False
        weighted = [
            (output * _positive(output, self.generator)).sum().to(self.device)
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
        if not all(bool(torch.isfinite(most)) for most in arrived):
            raise ArithmeticError("the flow overflows")
        return any(bool(most > 0) for most in arrived)


def _scaled(value: Tensor) -> Tensor:
    largest = value.detach().abs().amax()
    return value / torch.where(largest == 0, 1, largest)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)


def _positive(like: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform in (0.5, 1.5), drawn on the CPU, in a precision of 32 bits at least."""
    dtype = like.dtype if like.dtype.itemsize >= 4 else torch.float32
    return (torch.rand(like.shape, generator=generator) + 0.5).to(like.device, dtype)


def _positive_copy(
    model: nn.Module, masks: Masks, generator: torch.Generator
) -> nn.Module:
    """The model in evaluation mode, plain, with positive random weights where the masks keep them."""

    def fresh(name: str, like: Tensor) -> nn.Parameter:
        value = _positive(like, generator)
        return nn.Parameter(
            value * masks[name].to(value.device) if name in masks else value
        )

    memo: dict[int, Any] = {}  # what deepcopy takes in place of a copy
    for name, program in programs(model).items():
        memo[id(program)] = _Weight(fresh(name, program.theta()))
    for name, parameter in model.named_parameters():
        memo[id(parameter)] = (
            fresh(name, parameter) if parameter.is_floating_point() else parameter
        )
    for buffer in model.buffers():
        wide = buffer.is_floating_point() and buffer.dtype.itemsize < 4
        memo[id(buffer)] = buffer.detach().float() if wide else buffer.detach().clone()
    for module in model.modules():
        memo |= _shared(module)
    net = copy.deepcopy(_unwrapped(model), memo).eval()
    for _, owner, tensor in list(owners(net)):
        uninstall(owner, tensor, cast(_Weight, program_of(owner, tensor)).weight)
    return net


class _Weight(nn.Module):
    """Stands in for a weight program."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self) -> Tensor:
        return self.weight


def _shared(module: nn.Module) -> dict[int, Any]:
    """What is not copied with a module: hooks, which are left out, and other people's objects, such as a trainer.

    Hooks of torch itself compute weights (spectral_norm) and stay.
    """
    memo: dict[int, Any] = {}
    for name, value in vars(module).items():
        if name.endswith("_hooks") and isinstance(value, dict):
            memo[id(value)] = type(value)(
                (k, f) for k, f in value.items() if _of_torch(f)
            )
        elif not isinstance(value, _COPIED):
            memo[id(value)] = value
    return memo


_COPIED = (
    dict,
    list,
    tuple,
    set,
    nn.Module,
    Tensor,
    types.MethodType,
    functools.partial,
)


def _of_torch(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("torch.")


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model inside torch.compile's wrapper, and those of data parallelism."""
    while hasattr(model, "_orig_mod") or isinstance(
        model, (nn.DataParallel, nn.parallel.DistributedDataParallel)
    ):
        model = cast(
            nn.Module, model._orig_mod if hasattr(model, "_orig_mod") else model.module
        )
    return model


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
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in {parameter.device.type for parameter in model.parameters()}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        # cuDNN's recurrent layers have no gradient in evaluation mode.
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield
