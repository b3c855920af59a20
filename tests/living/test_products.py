"""Kernels of sparse training: values and gradients of random layers, bits for any threads, and what torch sees."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from sparsify_fx.living.place import place, places_of
from sparsify_fx.living.products import operators  # noqa: F401 - registers them
from sparsify_fx.living.products.function import convolution
from sparsify_fx.living.products.native import SparseLayer, layer_of
from sparsify_fx.living.products.shapes import Shape, Window, shape_of
from tests.fresh import run_fresh
from tests.living import random_products as products


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_random_layers_agree_with_double_precision(first: int) -> None:
    for seed in range(first, first + 10):
        assert products.worst(seed) <= 1, seed


@pytest.mark.sweep
@pytest.mark.parametrize("first", range(1000, 3000, 250))
def test_many_random_layers_agree_with_double_precision(first: int) -> None:
    for seed in range(first, first + 250):
        assert products.worst(seed) <= 1, seed


def test_the_bits_do_not_hang_on_threads() -> None:
    before = torch.get_num_threads()
    given = [products.random_product(seed) for seed in (3, 12, 17)]
    try:
        torch.set_num_threads(1)
        alone = [products.by_kernels(each) for each in given]
        for threads in (2, 3, 5):
            torch.set_num_threads(threads)
            for each, wanted in zip(given, alone, strict=True):
                found = products.by_kernels(each)
                assert all(map(torch.equal, found, wanted))
    finally:
        torch.set_num_threads(before)


def large() -> tuple[SparseLayer, list[torch.Tensor]]:
    """A layer whose images make several runs, each of which a thread may take from packing to results."""
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(24, 24, 3, 3, generator=generator) < 0.1).to(torch.uint8)
    places = places_of(mask)
    inputs, gradient = (
        products.beside(torch.randn(96, 24, 12, 12, generator=generator))
        for _ in range(2)
    )
    shape = shape_of(inputs.shape, tuple(mask.shape), Window(padding=(1, 1)))
    values = torch.randn(len(places), generator=generator)
    return layer_of(places, shape), [inputs, gradient, values]


def bits(layer: SparseLayer, given: list[torch.Tensor]) -> list[bytes]:
    """All results of a layer, by nothing but its kernels."""
    inputs, gradient, values = given
    made = layer.forward(inputs, values, None, None, True)
    back, found, _ = layer.backward(gradient, inputs, values, None, True, True)
    assert back is not None
    assert found is not None
    return [each.detach().numpy().tobytes() for each in (made, back, found)]


def test_the_bits_of_many_images_do_not_hang_on_threads() -> None:
    before = torch.get_num_threads()
    layer, given = large()
    try:
        torch.set_num_threads(1)
        alone = bits(layer, given)
        for threads in (2, 3, 20):
            torch.set_num_threads(threads)
            assert bits(layer, given) == alone
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_a_process_that_was_forked_has_threads_of_its_own() -> None:
    """Those of OpenMP are gone, and nobody tells OpenMP; torch's own operators must not be called there."""
    done = run_fresh(
        """
import os, signal, torch
from tests.living.test_products import bits, large

torch.set_num_threads(2)
layer, given = large()
wanted = bits(layer, given)
child = os.fork()
if child == 0:
    signal.alarm(60)
    os._exit(0 if bits(layer, given) == wanted else 3)
assert os.waitpid(child, 0)[1] == 0
"""
    )
    assert done.returncode == 0, done.stderr


def small(factor: bool) -> tuple[list[torch.Tensor], tuple[object, ...], Window]:
    torch.manual_seed(0)
    mask = (torch.rand(8, 4, 3, 3) < 0.2).to(torch.uint8)
    places = places_of(mask)
    vectors = [torch.randn(len(places), 1, 1, 1, requires_grad=True) for _ in range(2)]
    inputs = torch.randn(8, 4, 7, 7, requires_grad=True)
    weight = (vectors[0], places, mask, vectors[1] if factor else None)
    return [inputs, *vectors[: 1 + factor]], weight, Window((2, 2), (1, 1))


@pytest.mark.parametrize("factor", [False, True])
def test_gradients_of_gradients(factor: bool) -> None:
    leaves, weight, window = small(factor)

    def second(made: torch.Tensor) -> tuple[torch.Tensor, ...]:
        first = torch.autograd.grad(made.pow(2).sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum(each.pow(2).sum() for each in first), leaves)  # type: ignore[arg-type]

    found = second(convolution(leaves[0], weight, None, window))  # type: ignore[arg-type]
    wanted = second(F.conv2d(leaves[0], place(*weight), None, *window))  # type: ignore[arg-type]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-2)


def test_a_second_backward_after_a_step_needs_the_values_of_the_first() -> None:
    leaves, weight, window = small(False)
    made = convolution(leaves[0], weight, None, window).pow(2).sum()  # type: ignore[arg-type]
    with torch.no_grad():
        leaves[1].add_(1.0)
    with pytest.raises(RuntimeError, match="modified in place"):
        torch.autograd.grad(made, leaves, create_graph=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_torch_knows_shapes_and_gradients_of_the_operator() -> None:
    (inputs, *_), (values, places, mask, other), window = small(True)
    bias = torch.randn(8, requires_grad=True)
    given = (inputs, values, other, bias, places, tuple(mask.shape), *window, True)  # type: ignore[attr-defined]
    torch.library.opcheck(torch.ops.sparsify_fx.sparse_conv.default, given)


@pytest.mark.slow
def test_a_compiled_convolution_has_the_same_gradients() -> None:
    leaves, (values, places, mask, other), window = small(True)  # type: ignore[misc]
    weight = (values, places, mask, other)
    compiled = torch.compile(
        lambda inputs: convolution(inputs.relu(), weight, None, window).relu()
    )
    found = compiled(leaves[0])
    wanted = F.conv2d(leaves[0].relu(), place(*weight), None, *window).relu()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    for one, two in zip(
        torch.autograd.grad(found.sum(), leaves),
        torch.autograd.grad(wanted.sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


def test_another_shape_and_another_mask_have_layers_of_their_own() -> None:
    shape = Shape(8, 2, 4, 4, 3, 1, 1, 1, 1, 1, 1, 0, 0, 1, 4, 4)
    places = torch.tensor([0, 4], dtype=torch.int32)
    one = layer_of(places, shape)
    assert layer_of(places, shape) is one
    assert layer_of(places, shape._replace(images=16)) is not one
    assert layer_of(places.clone(), shape) is not one


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rows": 0}, "at least 1"),
        ({"groups": 3}, "multiple of groups"),
        ({"stride_y": 0}, "expected from 1"),
        ({"pad_x": -1}, "padding"),
        ({"out_width": 9}, "too large for its input"),
        ({"channels": 1}, "places must rise"),
        ({"images": 1 << 40}, "too large|expected from"),
    ],
)
def test_sizes_that_make_no_layer_are_refused(
    change: dict[str, int], told: str
) -> None:
    shape = Shape(8, 2, 4, 4, 3, 1, 1, 1, 1, 1, 1, 0, 0, 1, 4, 4)
    with pytest.raises(ValueError, match=told):
        SparseLayer(shape._replace(**change), torch.tensor([0, 4], dtype=torch.int32))
