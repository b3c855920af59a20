from __future__ import annotations

import hashlib
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsify_fx
from sparsify_fx.allocations import (
    ALLOCATIONS,
    Global,
    NofM,
    PerLayer,
    Uniform,
    with_min_per_layer,
)
from sparsify_fx.criteria import CRITERIA, PruningContext
from sparsify_fx.criteria.choosing import choose_masks
from sparsify_fx.errors import MethodError, SparsityError
from sparsify_fx.masks import nonzeros
from sparsify_fx.recipe import describe, find_method

FREE = ["global", "uniform", "balanced", "erk"]
Layers = list[tuple[int, int, float]]
LAYERS = st.lists(
    st.tuples(st.integers(1, 12), st.integers(1, 12), st.floats(0.01, 100)),
    min_size=1,
    max_size=6,
)


def weights_of(layers: Layers) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(len(layers))
    return {
        str(i): scale * torch.rand(out, ins, generator=generator)
        for i, (out, ins, scale) in enumerate(layers)
    }


def reserved_first(
    scores: dict[str, torch.Tensor], floors: dict[str, int], kept: int
) -> dict[str, int]:
    """The global rule said otherwise: every layer's best up to its floor, then the best of all the others."""
    ranked = {
        name: score.flatten().sort(descending=True).values.tolist()
        for name, score in scores.items()
    }
    others = sorted(
        ((v, name) for name, values in ranked.items() for v in values[floors[name] :]),
        reverse=True,
    )
    counts = dict(floors)
    for _, name in others[: kept - sum(floors.values())]:
        counts[name] += 1
    return counts


@settings(max_examples=150)
@given(
    LAYERS,
    st.sampled_from(FREE),
    st.one_of(st.integers(1, 6), st.floats(0.01, 0.5)),
    st.data(),
)
def test_no_layer_falls_below_its_floor_and_the_budget_is_exact(
    layers: Layers, name: str, least: float, data: st.DataObject
) -> None:
    scores = weights_of(layers)
    sizes = {key: score.numel() for key, score in scores.items()}
    allocation = ALLOCATIONS[name](min_per_layer=least)
    floors = allocation.floors(sizes, sum(sizes.values()))
    assert all(0 < floors[key] <= sizes[key] for key in sizes)
    kept = data.draw(st.integers(sum(floors.values()), sum(sizes.values())))
    counts = allocation.counts(scores, sizes, kept)
    assert sum(counts.values()) == kept
    assert all(floors[key] <= counts[key] <= sizes[key] for key in sizes)
    if name == "global":
        assert counts == reserved_first(scores, floors, kept)
    unbound = ALLOCATIONS[name]().counts(scores, sizes, kept)
    if all(unbound[key] >= floors[key] for key in sizes):
        assert counts == unbound, "floors that hold anyway change nothing"


@pytest.mark.parametrize("name", FREE)
def test_masks_have_those_counts_at_init_and_later(name: str) -> None:
    weights = weights_of([(8, 8, 10.0), (3, 2, 0.01), (8, 4, 1.0)])
    alive = {
        key: (weight > weight.median() / 2).to(torch.uint8)
        for key, weight in weights.items()
    }
    alive["1"] = torch.tensor([[1, 0], [0, 0], [0, 0]], dtype=torch.uint8)
    for living, least in ((None, [2, 2, 2]), (alive, [2, 1, 2])):
        context = PruningContext(
            weights,
            torch.Generator(),
            12,
            ALLOCATIONS[name](min_per_layer=2),
            alive=living,
        )
        masks = choose_masks(CRITERIA["magnitude"], context)
        assert nonzeros(masks) == 12
        assert all(
            int(mask.sum()) >= floor
            for mask, floor in zip(masks.values(), least, strict=True)
        )


@pytest.mark.parametrize("least", [0, -1, 0.0, 1.0, 1.5, True, "3", float("nan")])
def test_other_numbers_are_refused(least: object) -> None:
    with pytest.raises(SparsityError, match=r"number of weights \(16\) or a share"):
        Global(min_per_layer=least)  # type: ignore[arg-type]


def test_floors_beyond_the_budget_are_refused_before_anything_changes() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(10, 10), torch.nn.Linear(10, 10))
    before = list(net.state_dict())
    with pytest.raises(
        SparsityError, match="keeps at least 24 weights in 2 layers, the budget is 20"
    ):
        sparsify_fx.apply(
            net,
            "magnitude",
            sparsity=0.9,
            allocation={"name": "global", "min_per_layer": 12},
        )
    assert list(net.state_dict()) == before


def test_allocations_that_decide_each_layer_have_no_floor() -> None:
    assert with_min_per_layer(Uniform(), 0.1) == Uniform(min_per_layer=0.1)
    assert with_min_per_layer(NofM(), None) == NofM()
    for allocation in (NofM(), PerLayer({"fc": 0.5})):
        with pytest.raises(MethodError, match="has no effect"):
            with_min_per_layer(allocation, 1)


# blake2b of the axes as 0.1.0 described them: they are part of the hash that names a run's folder.
AS_BEFORE = {
    "acdc": "3b2542483f",
    "gmp": "b3bd6d9a1e",
    "lrr": "05b78427da",
    "magnitude": "959309c9eb",
    "random": "69fb415cf5",
    "rigl": "3423e5c17c",
    "signin": "1b6e5830dd",
    "woodfisher": "8c01b08efd",
}


def test_descriptions_of_configurations_without_floors_are_as_they_were() -> None:
    for method, expected in AS_BEFORE.items():
        text = json.dumps(find_method(method).resolved().to_dict(), sort_keys=True)
        assert hashlib.blake2b(text.encode(), digest_size=5).hexdigest() == expected, (
            method
        )
    for name in FREE:
        assert describe("allocation", ALLOCATIONS[name]()) == name
        with_floor = describe("allocation", ALLOCATIONS[name](min_per_layer=5))
        assert with_floor == {"name": name, "min_per_layer": 5}
        assert find_method(
            "lrr", {"allocation": with_floor}
        ).resolved().allocation == ALLOCATIONS[name](5)
