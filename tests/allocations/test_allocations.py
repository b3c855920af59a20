from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsify_fx
from sparsify_fx.allocations import (
    ALLOCATIONS,
    Balanced,
    ErdosRenyiKernel,
    Global,
    NofM,
    PerLayer,
    Uniform,
    proportional,
)
from sparsify_fx.errors import SparsityError
from sparsify_fx.masks import kept_count
from sparsify_fx.programs.selection import select_layers
from sparsify_fx.recipe import describe, find_method
from sparsify_fx.zoo.models import build_model
from tests.conftest import effective, small_net, train_step

SHAPES = {
    "conv1": (16, 3, 3, 3),
    "conv2": (32, 16, 3, 3),
    "down": (32, 16, 1, 1),
    "fc": (10, 32),
}


def scores(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(shape, generator=generator) for name, shape in SHAPES.items()
    }


def sizes() -> dict[str, int]:
    return {name: score.numel() for name, score in scores().items()}


FREE = [
    name for name in ALLOCATIONS if name not in ("per-layer", "n:m")
]  # those that meet any budget


@pytest.mark.parametrize("name", FREE)
@pytest.mark.parametrize("density", [1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.001])
def test_every_allocation_spends_the_budget_to_the_weight(
    name: str, density: float
) -> None:
    kept = round(density * sum(sizes().values()))
    counts = ALLOCATIONS[name]().counts(scores(), sizes(), kept)
    assert sum(counts.values()) == kept
    assert all(0 <= counts[layer] <= size for layer, size in sizes().items())


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.integers(1, 50), st.integers(0, 200)), min_size=1, max_size=12
    ),
    st.data(),
)
def test_proportional_is_the_water_level(
    layers: list[tuple[int, int]], data: st.DataObject
) -> None:
    shares = {str(i): share for i, (share, _) in enumerate(layers)}
    capacity = {str(i): room for i, (_, room) in enumerate(layers)}
    kept = data.draw(st.integers(0, sum(capacity.values())))
    counts = proportional(shares, capacity, kept)
    assert sum(counts.values()) == kept
    assert all(0 <= counts[name] <= capacity[name] for name in shares)
    # Layers that are not full stand at one level, up to the rounding of one weight each.
    open_layers = [name for name in shares if counts[name] < capacity[name]]
    for a in open_layers:
        for b in shares:
            assert (counts[b] - 1) / shares[b] <= (counts[a] + 1) / shares[a] + 1e-9


def test_uniform_gives_every_layer_the_same_density() -> None:
    counts = Uniform().counts(scores(), sizes(), 600)
    total = sum(sizes().values())
    assert all(
        abs(counts[name] - 600 * size / total) < 1 for name, size in sizes().items()
    )


def test_balanced_gives_equal_counts_and_keeps_small_layers_dense() -> None:
    counts = Balanced().counts(scores(), sizes(), 1600)
    assert counts == {
        "conv1": 427,
        "conv2": 427,
        "down": 426,
        "fc": 320,
    }  # (1600 − 320) / 3 each


def test_erk_follows_its_formula() -> None:
    counts = ErdosRenyiKernel().counts(scores(), sizes(), 100)
    sums = {"conv1": 25, "conv2": 54, "down": 50, "fc": 42}
    assert all(abs(counts[name] - 100 * part / 171) < 1 for name, part in sums.items())


def test_global_is_one_threshold_with_ties_by_layer_then_index() -> None:
    same = {"a": torch.zeros(3), "b": torch.tensor([0.0, 1.0])}
    assert Global().counts(same, {"a": 3, "b": 2}, 3) == {"a": 2, "b": 1}


def test_capacity_limits_a_later_cycle() -> None:
    alive = {**sizes(), "conv2": 7}
    counts = Uniform().counts(scores(), alive, 900)
    assert counts["conv2"] == 7
    assert sum(counts.values()) == 900


def test_per_layer_is_taken_at_its_word_or_refused() -> None:
    given_sparsity = (("conv1", 0.5), ("conv2", 0.9), ("down", 0.75), ("fc", 0.0))
    ideal = 216 + 461 + 128 + 320
    assert PerLayer(given_sparsity).counts(scores(), sizes(), ideal)["fc"] == 320
    with pytest.raises(SparsityError, match="make them agree"):
        PerLayer(given_sparsity).counts(scores(), sizes(), 100)
    with pytest.raises(SparsityError, match="missing or unknown: \\['fc'\\]"):
        PerLayer(given_sparsity[:3]).counts(scores(), sizes(), ideal)


def test_per_layer_takes_a_mapping_and_explains_what_is_none() -> None:
    pairs = (("conv1", 0.5), ("fc", 0.0))
    assert (
        PerLayer(dict(pairs))
        == PerLayer(tuple(reversed(pairs)))
        == PerLayer([list(pair) for pair in pairs])
    )  # type: ignore[arg-type]
    assert hash(PerLayer(dict(pairs))) == hash(PerLayer(pairs))
    for wrong in ({}, {"fc": 1.5}, {"fc": "much"}, 0.5, ["fc"]):
        with pytest.raises(
            SparsityError, match="must map names of weights to fractions"
        ):
            PerLayer(wrong)  # type: ignore[arg-type]


def test_per_layer_falls_to_its_end_through_powers_of_its_densities() -> None:
    given_sparsity = {"conv1": 0.5, "conv2": 0.9, "down": 1.0, "fc": 0.0}
    total, end = sum(sizes().values()), 216 + 461 + 320
    room = sizes()
    for kept in (total, 4500, 3000, 1500, end):
        room = PerLayer(given_sparsity).counts(scores(), room, kept)
        assert sum(room.values()) == kept
        assert room["fc"] == 320
        if end < kept < total:
            t = math.log(room["conv1"] / 432) / math.log(0.5)
            assert room["conv2"] == pytest.approx(4608 * 0.1**t, rel=0.02)
    assert room == {"conv1": 216, "conv2": 461, "down": 0, "fc": 320}


def test_per_layer_is_usable_from_apply_at_init_and_in_cycles() -> None:
    shares = {"0.weight": 0.5, "3.weight": 0.75, "7.weight": 0.25}
    kept = 108 + 72 + 216
    allocation = {"name": "per-layer", "sparsity": shares}
    given = {"sparsity": 1 - kept / 792, "allocation": allocation}
    model = sparsify_fx.apply(small_net(), "random", **given)
    assert [int((weight != 0).sum()) for weight in effective(model).values()] == [
        108,
        72,
        216,
    ]
    with pytest.raises(SparsityError, match=r"make them agree: sparsity=0\.5$"):
        sparsify_fx.apply(small_net(), "lrr", sparsity=0.4, allocation=allocation)
    model = sparsify_fx.apply(small_net(), "lrr", **given)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=1, steps_per_epoch=1)
    while not scheduler.finished:
        train_step(model, optimizer)
        scheduler.step()
    assert [int((weight != 0).sum()) for weight in effective(model).values()] == [
        108,
        72,
        216,
    ]
    again = find_method(
        "lrr",
        {
            "allocation": json.loads(
                json.dumps(describe("allocation", PerLayer(shares)))
            )
        },
    )
    assert again.resolved().allocation == PerLayer(shares)


def meta_scores(name: str) -> dict[str, torch.Tensor]:
    """The prunable weights of a model, without their values."""
    with torch.device("meta"):
        model = build_model(
            name,
            num_classes=1000 if ":" in name else 10,
            image_size=224 if ":" in name else 32,
        )
    return {key: layer.weight.detach() for key, layer in select_layers(model).items()}


def erk_by_rounds(shapes: dict[str, torch.Size], density: float) -> dict[str, float]:
    """Densities as RigL finds them: raise ε, making full layers dense, until none is above 1."""
    dense: set[str] = set()
    while True:
        free = {name: shape for name, shape in shapes.items() if name not in dense}
        budget = density * sum(shape.numel() for shape in shapes.values())
        budget -= sum(shapes[name].numel() for name in dense)
        epsilon = budget / sum(sum(shape) for shape in free.values())
        full = {
            name for name, shape in free.items() if epsilon * sum(shape) > shape.numel()
        }
        if not full:
            return {
                name: 1.0 if name in dense else epsilon * sum(shape) / shape.numel()
                for name, shape in shapes.items()
            }
        dense |= full


MODELS = [
    "resnet20",
    "torchvision:resnet18",
    "torchvision:resnet50",
    "timm:deit_small_patch16_224",
]


@pytest.mark.parametrize("name", MODELS)
def test_erk_and_balanced_reach_the_density_to_the_weight(name: str) -> None:
    found = meta_scores(name)
    room = {key: score.numel() for key, score in found.items()}
    total = sum(room.values())
    for density in (0.5, 0.2, 0.1, 0.05, 0.02):
        kept = kept_count(total, 1 - density)
        for allocation in (ErdosRenyiKernel(), Balanced()):
            counts = allocation.counts(found, room, kept)
            assert sum(counts.values()) == kept
            assert all(0 < counts[key] <= room[key] for key in room)
        expected = erk_by_rounds(
            {key: score.shape for key, score in found.items()}, kept / total
        )
        erk = ErdosRenyiKernel().counts(found, room, kept)
        assert all(abs(erk[key] - expected[key] * room[key]) < 1.01 for key in room)
        open_counts = [
            count
            for key, count in Balanced().counts(found, room, kept).items()
            if count < room[key]
        ]
        assert max(open_counts) - min(open_counts) <= 1


@pytest.mark.parametrize("allocation", ["erk", "balanced"])
@pytest.mark.parametrize("density", [0.5, 0.2, 0.1, 0.05, 0.02])
def test_apply_on_resnet20_lands_on_the_weight(allocation: str, density: float) -> None:
    torch.manual_seed(0)
    model = build_model("resnet20", num_classes=10)
    total = sum(layer.weight.numel() for layer in select_layers(model).values())
    sparsify_fx.apply(model, "random", sparsity=1 - density, allocation=allocation)
    assert sum(
        int((weight != 0).sum()) for weight in effective(model).values()
    ) == kept_count(total, 1 - density)


def test_a_budget_above_capacity_is_refused() -> None:
    for allocation in (Uniform(), Global()):
        with pytest.raises(SparsityError, match="that may stay"):
            allocation.counts(scores(), sizes(), sum(sizes().values()) + 1)


def test_n_of_m_keeps_the_best_of_every_group_of_inputs() -> None:
    score = torch.tensor([[4.0, 1.0, 3.0, 2.0, 5.0, 5.0, 5.0, 5.0]])
    assert NofM(2, 4).masks({"fc": score}, 4)["fc"].tolist() == [
        [1, 0, 1, 0, 1, 1, 0, 0]
    ]  # ties by index
    masks = NofM(1, 4).masks(scores(), 432 + 4608 // 4 + 512 // 4 + 320 // 4)
    assert masks["conv1"].all(), "3 input channels cannot be divided by 4: dense"
    groups = masks["conv2"].reshape(32, 4, 4, 3, 3).sum(2)
    assert (groups == 1).all()


def test_n_of_m_on_its_way_keeps_the_best_of_the_others_too() -> None:
    score = torch.tensor([[9.0, 8.0, 7.0, 1.0, 2.0, 5.0, 4.0, 3.0]])
    assert NofM(2, 4).masks({"fc": score}, 6)["fc"].tolist() == [
        [1, 1, 1, 0, 0, 1, 1, 1]
    ]
    pruned = score.masked_fill(score == 3, -torch.inf)
    assert NofM(2, 4).masks({"fc": pruned}, 5)["fc"].tolist() == [
        [1, 1, 1, 0, 0, 1, 1, 0]
    ]


def test_n_of_m_says_which_sparsity_it_gives() -> None:
    with pytest.raises(
        SparsityError,
        match=r"2:4 keeps 3152 of these 5872 weights, .* ask for sparsity=0\.463",
    ):
        NofM().masks(scores(), 587)
    with pytest.raises(SparsityError, match=r"ask for sparsity=0\.463"):
        NofM().check(
            {name: tuple(score.shape) for name, score in scores().items()}, 4000
        )
    with pytest.raises(SparsityError, match="1 <= n < m"):
        NofM(4, 4)
