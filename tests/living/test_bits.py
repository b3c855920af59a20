"""Entries moved by bits, eight at a time, against torch's own indexing, bit for bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import sparsify_fx
from sparsify_fx.living import bits
from sparsify_fx.living.kernels import picked, picked_product, placed
from sparsify_fx.living.place import places_of

SIZES = [(4096,), (4099,), (63, 67), (64, 3, 5, 5), (1024, 1536)]


def random_places(shape: tuple[int, ...], density: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return places_of(torch.rand(shape, generator=generator) < density)


def same(found: Tensor, expected: Tensor) -> bool:
    return torch.equal(found.view(torch.int32), expected.view(torch.int32))


@pytest.fixture(params=[1, 2], ids="{} threads".format)
def _threads(request: pytest.FixtureRequest) -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def test_bits_are_those_of_places() -> None:
    places = torch.tensor([0, 3, 9, 4095], dtype=torch.int32)
    found = bits.bits_of(places, 4096)
    lives = (found[:, None] >> torch.arange(8)) & 1
    assert torch.equal(lives.reshape(-1).nonzero().reshape(-1), places.long())


def test_bits_follow_places_that_are_written() -> None:
    places = torch.tensor([0, 3], dtype=torch.int32)
    first = bits.bits_of(places, 8).item()
    places.copy_(torch.tensor([1, 3]))
    assert (first, bits.bits_of(places, 8).item()) == (9, 10)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("density", [0.16, 0.5, 0.97])
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_placed_and_picked(shape: tuple[int, ...], density: float) -> None:
    places = random_places(shape, density, seed=len(shape))
    size = torch.Size(shape).numel()
    values, factor = torch.randn(2, len(places))
    values[0] = -0.0
    if bits._functions() is not None:
        assert bits.pays(places, size, values)
    for one, made in ((None, values), (factor, values * factor)):
        expected = torch.zeros(size).index_copy(0, places.long(), made)
        found = placed(values, places, torch.Size(shape), one)
        assert same(found.view(-1), expected)
    dense = torch.randn(shape)
    entries = dense.reshape(-1)[places.long()]
    guarded = torch.full((len(places) + 8,), 7.0)
    assert same(picked(dense, places, guarded)[: len(places)], entries)
    assert (guarded[len(places) :] == 7).all()
    into = torch.empty(2, len(places)).unbind()
    picked_product(dense, places, (values, factor), into)
    assert same(into[0], entries * factor)
    assert same(into[1], entries * values)


def test_few_entries_go_by_places() -> None:
    places = random_places((4096,), 0.05, seed=0)
    assert not bits.pays(places, 4096, torch.randn(len(places)))


def test_other_precisions_go_by_places() -> None:
    places = random_places((4096,), 0.5, seed=0)
    values = torch.randn(len(places), dtype=torch.float64)
    assert not bits.pays(places, 4096, values)
    found = placed(values, places, torch.Size([4096]))
    assert torch.equal(found[places.long()], values)


def test_a_copy_under_inference_mode_goes_by_places() -> None:
    model = nn.Sequential(nn.Linear(128, 128))
    sparsify_fx.apply(model, "random", sparsity=0.5, storage="living")
    inputs = torch.randn(4, 128)
    with torch.inference_mode():
        assert torch.equal(copy.deepcopy(model)(inputs), model(inputs))
