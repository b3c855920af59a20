"""Batch norm of images side by side is that of torch, in single precision as near to double as torch's own."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from sparsify_fx.acceleration.layouts import _Normed, follow_images, forget_images
from tests.living.random_products import TOLERANCES, beside, error

SHAPES = [(8, 1, 1, 1), (8, 3, 5, 7), (16, 33, 4, 4), (64, 5, 32, 32), (24, 2, 1, 9)]


def norm(channels: int, **options: object) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(channels, **options)  # type: ignore[arg-type]
    if made.affine:
        nn.init.normal_(made.weight)
        nn.init.normal_(made.bias)
    if made.running_mean is not None:
        nn.init.normal_(made.running_mean)
        nn.init.uniform_(made.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return made


def results(layer: nn.Module, inputs: Tensor, gradient: Tensor) -> list[Tensor]:
    """Outputs, gradients of inputs and parameters, and the buffers afterwards."""
    inputs = inputs.detach().requires_grad_()
    made = layer(inputs)
    found = torch.autograd.grad(made, [inputs, *layer.parameters()], gradient)
    return [made.detach(), *found, *layer.buffers()]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"affine": False}, {"momentum": None}, {"track_running_stats": False}],
    ids=["usual", "no weight", "average", "no statistics"],
)  # fmt: skip
def test_it_is_that_of_torch(options: dict[str, object], training: bool) -> None:
    for shape, far in itertools.product(SHAPES, (0.0, 1000.0)):
        layer = norm(shape[1], **options).train(training)
        exact = copy.deepcopy(layer).double()
        inputs, gradient = torch.randn(shape) + far, torch.randn(shape)
        wanted = results(exact, inputs.double(), gradient.double())
        usual = results(copy.deepcopy(layer), inputs, gradient)
        follow_images(layer)
        found = results(layer, beside(inputs), beside(gradient))
        for one, other, right in zip(found, usual, wanted, strict=True):
            # Sums of products with values near 1000 keep fewer digits than torch's, which are in double precision.
            limit = max(2e-5 if far else 2e-6, 2 * error(other, right))
            assert error(one, right) <= limit, (shape, far)


@pytest.mark.parametrize("training", [True, False])
def test_it_takes_bfloat16_images_as_torch_does(training: bool) -> None:
    for shape in SHAPES:
        layer = norm(shape[1]).train(training)
        exact = copy.deepcopy(layer).double()
        inputs, gradient = torch.randn(shape).bfloat16(), torch.randn(shape).bfloat16()
        wanted = results(exact, inputs.double(), gradient.double())
        follow_images(layer)
        found = results(layer, beside(inputs), beside(gradient))
        assert [each.dtype for each in found[:4]] == [torch.bfloat16] * 2 + [torch.float32] * 2  # fmt: skip
        for one, right in zip(found, wanted, strict=True):
            assert error(one, right) <= TOLERANCES.get(one.dtype, 0), shape


def test_a_value_that_is_far_from_all_others_drowns_nothing() -> None:
    layer, inputs = norm(1), torch.randn(64, 1, 32, 32)
    inputs[0, 0, 0, 0] = 1e6
    exact = copy.deepcopy(layer).double()
    follow_images(layer)
    layer(beside(inputs)), exact(inputs.double())
    torch.testing.assert_close(
        layer.running_var.double(), exact.running_var, rtol=1e-5, atol=0
    )


def test_gradients_of_gradients_are_those_of_torch() -> None:
    for training in (True, False):
        layer = norm(3).train(training)
        plain = copy.deepcopy(layer)
        follow_images(layer)
        inputs = torch.randn(8, 3, 2, 2)
        seen = []
        for each, given in ((layer, beside(inputs)), (plain, inputs)):
            leaf = given.detach().requires_grad_()
            made = each(leaf).pow(3).sum()
            (first,) = torch.autograd.grad(made, leaf, create_graph=True)
            seen.append(torch.autograd.grad(first.square().sum(), [leaf, each.weight]))
        torch.testing.assert_close(*seen, rtol=1e-4, atol=1e-4)


def test_the_same_bits_for_any_number_of_threads() -> None:
    inputs, gradient = torch.randn(16, 40, 16, 16), torch.randn(16, 40, 16, 16)
    layer, seen = norm(40), []
    follow_images(layer)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            seen.append(results(copy.deepcopy(layer), beside(inputs), beside(gradient)))
    finally:
        torch.set_num_threads(1)
    assert all(map(torch.equal, seen[0], seen[1]))
    assert all(map(torch.equal, seen[0], seen[2]))


def test_only_what_the_kernels_take_goes_through_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken = []
    apply = _Normed.apply
    monkeypatch.setattr(
        _Normed, "apply", lambda *given: (taken.append(1), apply(*given))[1]
    )
    layer, inputs = norm(3), torch.randn(8, 3, 2, 2)
    follow_images(layer)
    layer(inputs), layer.double()(beside(inputs.double()))
    assert not taken
    layer.float()(beside(inputs))
    assert taken
    forget_images(layer)
    layer(beside(inputs))
    assert len(taken) == 1
