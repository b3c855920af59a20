"""What torch allows and few do: other defaults, inference mode, batches of two sizes, huge images, odd tensors."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import sparsify_fx
from sparsify_fx.living.products.native import fills_blocks
from sparsify_fx.living.products.shapes import Window, fits, shape_of


def convolutions(method: str = "signin") -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.BatchNorm2d(8)
    )  # fmt: skip
    return sparsify_fx.apply(
        model, method, sparsity=0.8, storage="living", kernels="always"
    )


@contextmanager
def defaults(dtype: torch.dtype, device: str) -> Iterator[None]:
    """Another dtype and device for tensors that name none."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("dtype", "device"),
    [(torch.float64, "cpu"), (torch.bfloat16, "cpu"), (torch.float16, "cpu"), (torch.float32, "meta")],
)  # fmt: skip
def test_defaults_of_torch_change_nothing(
    dtype: torch.dtype, device: str, training: bool
) -> None:
    model, inputs = convolutions().train(training), torch.randn(8, 3, 8, 8)
    twin = copy.deepcopy(model)
    wanted = model(inputs)
    wanted.square().mean().backward()
    with defaults(dtype, device):
        found = twin(inputs)
        found.square().mean().backward()
    assert torch.equal(found, wanted)
    assert all(map(torch.equal, twin.buffers(), model.buffers()))
    for one, other in zip(twin.parameters(), model.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad)


@pytest.mark.parametrize("method", ["powerprop", "str", "cs", "signin", "random"])
def test_inference_mode(method: str) -> None:
    model, inputs = convolutions(method).eval(), torch.randn(8, 3, 8, 8)
    wanted = model(inputs)
    with torch.inference_mode():
        assert torch.equal(model(inputs), wanted)


@pytest.mark.parametrize("batches", [(7, 8), (8, 7), (8, 8), (7, 7)])
def test_two_forwards_before_a_backward(batches: tuple[int, int]) -> None:
    model = convolutions()
    twin = sparsify_fx.decelerate(copy.deepcopy(model))
    given = [torch.randn(number, 3, 8, 8) for number in batches]
    for each in (model, twin):
        torch.stack([each(inputs).square().mean() for inputs in given]).sum().backward()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)
    for one, other in zip(model.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_norms_that_keep_no_statistics_any_more_count_no_batches() -> None:
    model = convolutions()
    model[1].track_running_stats = False
    model(torch.randn(8, 3, 8, 8))
    counts = [model[place].num_batches_tracked.item() for place in (1, 4)]
    assert counts == [0, 1]


@pytest.mark.parametrize("kernels", ["auto", "always"])
def test_images_beyond_the_kernels_room_are_dense(kernels: str) -> None:
    # One channel of output keeps the dense product small; the size of the input is what is too large.
    layer = nn.Conv2d(64, 1, 1)
    model = sparsify_fx.apply(layer, "random", sparsity=0.9, kernels=kernels)
    twin = sparsify_fx.decelerate(copy.deepcopy(model))
    inputs = torch.randn(1, 64, 608, 608)
    assert not fits(shape_of(inputs.shape, (1, 64, 1, 1), Window()))
    with torch.no_grad():
        assert torch.equal(model(inputs), twin(inputs))


def test_what_fits_by_the_bound_fits_the_kernels() -> None:
    draw, refused = random.Random(0), 0
    for _ in range(3000):
        kernel, stride, dilation, padding = (
            tuple(draw.randint(least, 7) for _ in range(2)) for least in (1, 1, 1, 0)
        )
        sides = [draw.choice([40, 300, 900, 3000, 10**6]) for _ in range(2)]
        inputs = (draw.choice([1, 16, 10**5]), draw.choice([1, 64, 512]), *sides)
        weight = (draw.choice([1, 64, 512]), inputs[1], *kernel)
        shape = shape_of(inputs, weight, Window(stride, padding, dilation))  # type: ignore[arg-type]
        if min(shape.output) < 1:
            continue
        if fits(shape):
            fills_blocks(shape)  # a ValueError if it did not
        else:
            refused += 1
    assert 0 < refused < 2800


def test_a_stride_of_zero_is_told_by_torch() -> None:
    model = convolutions()
    model[3].stride = (0, 0)
    with pytest.raises(RuntimeError, match="stride"):
        model(torch.randn(8, 3, 8, 8))


class Rows(nn.Module):
    """Rows that lie side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(inputs.sin().t())


@pytest.mark.parametrize("rows", [7, 8, 16])
def test_operators_say_how_their_gradients_lie(rows: int) -> None:
    model = sparsify_fx.apply(Rows(), "random", sparsity=0.5, kernels="always")
    compiled = torch.compile(model, backend="aot_eager")
    results = []
    for run in (model, compiled):
        inputs = torch.linspace(0, 1, 16 * rows).view(16, rows).requires_grad_()
        run(inputs).square().sum().backward()
        results.append(inputs.grad)
    assert torch.equal(*results)
    # The operator alone, with the check that compilers rely on.
    weight = model.linear.weight_program
    values, places = next(weight.parameters()).detach(), weight.places()
    images = torch.randn(16, rows).t()[:, :, None, None]
    torch.library.opcheck(
        torch.ops.sparsify_fx.sparse_conv_backward.default,
        (torch.randn_like(images), images, values, None, places, (16, 16, 1, 1), (1, 1), (0, 0), (1, 1), 1, True, True),
        test_utils=("test_schema", "test_faketensor"),
    )  # fmt: skip


class Watch(TorchDispatchMode):
    """A mode that sees operators and changes none."""

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # fmt: skip
        return operator(*args, **(kwargs or {}))


def test_a_gradient_of_a_gradient_that_is_watched() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 1))
    model = sparsify_fx.apply(net, "random", sparsity=0.8, kernels="always")
    twin = sparsify_fx.decelerate(copy.deepcopy(model))
    given = torch.randn(8, 64)
    for each in (model, twin):
        inputs = given.clone().requires_grad_()
        with Watch():
            (first,) = torch.autograd.grad(each(inputs).sum(), inputs, create_graph=True)  # fmt: skip
            first.square().sum().backward()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)


def negated(gradient: Tensor) -> Tensor:
    return torch._neg_view(gradient)


def zero(gradient: Tensor) -> Tensor:
    return torch._efficientzerotensor(gradient.shape)


@pytest.mark.parametrize("odd", [negated, zero])
def test_tensors_whose_memory_says_something_else(odd: Callable[..., Tensor]) -> None:
    # In evaluation: the norm of a batch would make little of a gradient.
    model = sparsify_fx.decelerate(convolutions()).eval()
    fast = sparsify_fx.accelerate(copy.deepcopy(model), kernels="always")
    inputs, gradient = torch.randn(8, 3, 8, 8), torch.randn(8, 8, 6, 6)
    results = []
    for each in (model, fast):
        leaf = inputs.clone().requires_grad_()
        made = each(torch._neg_view(leaf))
        (found,) = torch.autograd.grad(made, leaf, odd(gradient))
        results.append((made, found + 0))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
