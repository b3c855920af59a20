"""Linear layers in blocks, kernels, and the memory of placed weights, beside torch's own operators."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.living.blocks import GROUP
from sparsify_fx.living.linear import linear, pays
from sparsify_fx.living.memory import memory_for
from sparsify_fx.living.place import pick, place, places_of

SHAPES = ((256, 256), (2048, 512), (336, 1008), (16, 8192), (4096, 16))


def random_mask(shape: tuple[int, ...], density: float) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return (torch.rand(shape, generator=generator) < density).to(torch.uint8)


@pytest.mark.parametrize("product", [False, True])
@pytest.mark.parametrize(
    ("shape", "rows"), list(itertools.product(SHAPES, (1, 7, 64, 128)))
)
def test_blocks_give_the_bits_of_dense_matrices(
    shape: tuple[int, int], rows: int, product: bool
) -> None:
    mask = random_mask(shape, 0.1)
    places = places_of(mask)
    # One more than there are places: room behind them.
    values, factor = torch.randn(2, len(places) + 1, 1).requires_grad_().unbind()
    bias = torch.randn(shape[0], requires_grad=True)
    inputs = torch.randn(rows, shape[1], requires_grad=True)
    given = [inputs, values, bias, *([factor] if product else [])]
    assert all(size % GROUP == 0 for size in shape)

    made = linear(inputs, values, places, mask, factor if product else None, bias)
    flat = (values * factor if product else values).reshape(-1)[: len(places)]
    dense = torch.zeros(mask.numel()).index_copy(0, places.long(), flat).view(shape)
    expected = F.linear(inputs, dense, bias)
    assert torch.equal(made, expected)

    upstream = torch.randn_like(made)
    found = torch.autograd.grad(made, given, upstream)
    wanted = torch.autograd.grad(expected, given, upstream)
    assert all(map(torch.equal, found, wanted))


@pytest.mark.parametrize("shape", [(8, 512), (2, 4, 512), (512,)])
def test_outputs_can_be_written_in_place(shape: tuple[int, ...]) -> None:
    inputs, seen = torch.randn(shape), []
    for inplace in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(512, 256), nn.ReLU(inplace=inplace))
        sparsify_fx.apply(model, "signin", sparsity=0.9, storage="living")
        model(inputs).square().sum().backward()
        seen.append([p.grad for p in model.parameters()])
    assert all(map(torch.equal, *seen))


def test_where_blocks_would_round_otherwise_they_are_not_used() -> None:
    mask, inputs = random_mask((512, 512), 0.1), torch.randn(8, 512)
    places = places_of(mask)
    assert pays(mask, places, inputs)
    assert not pays(mask, places, inputs.double())
    odd = random_mask((513, 512), 0.1)
    assert not pays(odd, places_of(odd), inputs)


def test_a_weight_without_zeros_is_not_copied_into_blocks() -> None:
    mask = torch.ones(512, 512, dtype=torch.uint8)
    assert not pays(mask, places_of(mask), torch.randn(8, 512))


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 5), (300, 700), (64, 32, 3, 3), (1 << 21,)])
def test_places_and_gradients_of_products(
    shape: tuple[int, ...], kind: torch.dtype
) -> None:
    mask = random_mask(shape, 0.2)
    places = places_of(mask)
    one, other = torch.randn(2, len(places), dtype=kind).requires_grad_().unbind()
    upstream = torch.randn(shape, dtype=kind)
    fused = place(one, places, mask, other)
    apart = place(one * other, places, mask)
    assert torch.equal(fused, apart)
    found = torch.autograd.grad(fused, (one, other), upstream)
    wanted = torch.autograd.grad(apart, (one, other), upstream)
    assert all(map(torch.equal, found, wanted))
    entries = upstream.reshape(-1)[places.long()]
    assert torch.equal(found[0], entries * other)
    assert torch.equal(pick(upstream, places, one.shape), entries)


def test_memory_is_taken_again_only_when_nothing_holds_it() -> None:
    places, shape = torch.arange(4), torch.Size([256, 256])
    first = memory_for(places, shape, torch.float32)
    address = first.data_ptr()
    second = memory_for(places, shape, torch.float32)
    assert second.data_ptr() != address
    view = second[3:5].numpy()
    kept = second.data_ptr()
    del second
    third = memory_for(places, shape, torch.float32)
    assert third.data_ptr() != kept, "an array of numpy holds it"
    storage = third.untyped_storage()
    kept = third.data_ptr()
    del third, view
    fourth = memory_for(places, shape, torch.float32)
    assert fourth.data_ptr() != kept, "a storage of Python holds it"
    fourth.share_memory_()
    kept = fourth.data_ptr()
    del fourth, storage
    assert memory_for(places, shape, torch.float32).data_ptr() != kept
    addresses = {memory_for(places, shape, torch.float32).data_ptr() for _ in range(5)}
    assert len(addresses) == 1
    assert memory_for(places, shape, torch.float64).dtype == torch.float64


def test_weights_that_were_written_to_are_cleared() -> None:
    layer = sparsify_fx.apply(
        nn.Conv2d(64, 64, 3), "signin", sparsity=0.9, storage="living"
    )
    with torch.no_grad():
        before = layer.weight_program().clone()
        layer.weight_program().fill_(7.0)
        assert torch.equal(layer.weight_program(), before)


def test_weights_of_an_evaluation_can_be_trained_with() -> None:
    layer = sparsify_fx.apply(
        nn.Conv2d(64, 64, 3), "signin", sparsity=0.9, storage="living"
    )
    inputs = torch.randn(1, 64, 8, 8)
    with torch.inference_mode():
        layer(inputs)
    layer(inputs).sum().backward()


def test_threads_have_memory_of_their_own() -> None:
    layer = sparsify_fx.apply(
        nn.Conv2d(64, 64, 3), "signin", sparsity=0.9, storage="living"
    )
    inputs = torch.randn(1, 64, 8, 8)
    expected = layer(inputs)
    wrong: list[int] = []

    def forward() -> None:
        for number in range(50):
            if not torch.equal(layer(inputs), expected):
                wrong.append(number)

    threads = [threading.Thread(target=forward) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


INTERPRETED = """
import torch
from sparsify_fx.living import triton_kernels as kernels
from sparsify_fx.living.place import places_of

for shape in ((7, 9), (70, 90), (1, 1), (0, 3)):
    mask = (torch.rand(shape) < 0.3).to(torch.uint8)
    places = places_of(mask)
    count = len(places)
    for kind in (torch.float32, torch.float64, torch.float16):
        one, other = torch.randn(2, count + 3, dtype=kind)
        for factor in (None, other):
            values = (one if factor is None else one * factor)[:count]
            dense = torch.zeros(mask.numel(), dtype=kind).index_copy(0, places.long(), values)
            assert torch.equal(kernels.placed(one, places, mask.shape, factor), dense.view(shape))
        upstream = torch.randn(shape, dtype=kind)
        entries = upstream.view(-1)[places.long()]
        into = torch.zeros(count + 3, dtype=kind)
        kernels.picked(upstream, places, into)
        assert torch.equal(into[:count], entries)
        both = torch.zeros_like(one), torch.zeros_like(one)
        kernels.picked_product(upstream, places, (one, other), both)
        assert torch.equal(both[0][:count], entries * other[:count])
        assert torch.equal(both[1][:count], entries * one[:count])
        assert not both[0][count:].any()
print("equal")
"""


def test_triton_kernels_give_the_same() -> None:
    pytest.importorskip("triton", reason="torch's builds for this system lack it")
    # The interpreter is chosen when triton is imported, which may have happened here.
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "equal\n", done.stderr
