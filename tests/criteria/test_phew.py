"""phew against walks by hand where there is no choice, and against probabilities where there is; wiring of nets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparsify_fx.criteria import Phew, phew, pruning_generator
from sparsify_fx.criteria.choosing import choose_masks
from sparsify_fx.errors import MethodError
from sparsify_fx.programs.selection import select_layers
from sparsify_fx.programs.wiring import wiring
from sparsify_fx.zoo.models import build_model
from tests.conftest import batch
from tests.criteria.common import context_of, weights_of


def chain(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b, bias=False), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def inputs_of(features: int) -> list[tuple[Tensor, Tensor]]:
    return [(torch.zeros(2, features), torch.zeros(2, dtype=torch.int64))]


def test_walks_without_a_choice_are_those_of_the_paper() -> None:
    # Every unit has one way on, forwards (a permutation) and backwards (its inverse).
    torch.manual_seed(0)
    model = chain(5, 5, 5, 5)
    orders = [torch.randperm(5).tolist() for _ in range(3)]
    with torch.no_grad():
        for place, order in enumerate(orders):
            model[2 * place].weight.zero_()
            for j, i in enumerate(order):
                model[2 * place].weight[i, j] = -2.0
    expected: dict[tuple[int, int, int], int] = {}
    for number in range(10):
        unit, layers = (number // 2) % 5, range(3)
        for layer in layers if number % 2 == 0 else reversed(layers):
            if number % 2 == 0:
                edge, unit = (layer, orders[layer][unit], unit), orders[layer][unit]
            else:
                before = orders[layer].index(unit)
                edge, unit = (layer, unit, before), before
            expected.setdefault(edge, number)
    scores = Phew().scores(context_of(model, batches=inputs_of(5), kept=15))
    for (layer, i, j), number in expected.items():
        assert float(scores[f"{2 * layer}.weight"][i, j]) == -number
    others = torch.cat([s.flatten() for s in scores.values()])
    assert int((others >= -10).sum()) == 15


def test_walks_take_edges_in_proportion_to_their_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(phew, "_BATCH", 2)
    torch.manual_seed(1)
    model, runs = chain(3, 4, 3), 3000
    a, b = (abs(model[i].weight.detach().numpy()) for i in (0, 2))
    seen = {"0.weight": np.zeros((2, 4, 3)), "2.weight": np.zeros((2, 3, 4))}
    for seed in range(runs):
        context = context_of(
            model, batches=inputs_of(3), kept=1, generator=pruning_generator(seed)
        )
        for name, score in Phew(patience=1e-9).scores(context).items():
            for number in range(2):
                seen[name][number] += (score == -number).numpy()
    # Walk 0 goes from input 0 forwards, walk 1 from output 0 backwards.
    forth = a[:, 0] / a[:, 0].sum()
    on = forth[None] * b / b.sum(0)
    back = b[0] / b[0].sum()
    home = back[:, None] * a / a.sum(1, keepdims=True)
    for found, expected in [
        (seen["0.weight"][0][:, 0], forth),
        (seen["2.weight"][0], on),
        (seen["2.weight"][1][0], back),
        (seen["0.weight"][1], home),
    ]:
        # An edge that both walks come over counts for the first alone.
        slack = 4 * np.sqrt(expected / runs) + 0.25 * expected
        assert (found / runs <= expected + 4 * np.sqrt(expected / runs)).all()
        assert (found / runs >= expected - slack - 0.05).all()
    assert seen["0.weight"][0].sum() == seen["2.weight"][0].sum() == runs


def test_a_walk_goes_over_one_position_of_a_kernel_and_over_groups_and_flattening() -> (
    None
):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 3, groups=2), nn.Flatten(), nn.Linear(64, 5),
    )  # fmt: skip
    batches = [(torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64))]
    context = context_of(model, batches=batches, kept=120)
    masks = choose_masks(Phew(), context)
    assert sum(int(mask.sum()) for mask in masks.values()) == 120
    # Whatever stays lies on a path: units that are reached are left, and those that are left are reached.
    into = [
        masks[f"{i}.weight"].flatten(2).any(2) if i < 4 else masks["4.weight"].bool()
        for i in (0, 2, 4)
    ]
    out_of_first = torch.zeros(8, dtype=torch.bool)
    for group in range(2):
        out_of_first[group * 4 : group * 4 + 4] = into[1][
            group * 2 : group * 2 + 2
        ].any(0)
    assert torch.equal(into[0].any(1), out_of_first)
    assert torch.equal(into[1].any(1), into[2].any(0).reshape(4, 16).any(1))


@pytest.mark.parametrize("name", ["resnet20", "vgg16_bn-cifar"])
def test_residual_nets_are_wired_over_their_skips(name: str) -> None:
    model = build_model(name, num_classes=10).eval()
    found = wiring(model, list(select_layers(model)), torch.zeros(1, 3, 32, 32), "test")
    assert [n for n, wire in found.items() if wire.first] == [next(iter(found))]
    assert [n for n, wire in found.items() if wire.last] == [list(found)[-1]]
    widest = max(len(wire.before) for wire in found.values())
    # In a residual net a block feeds on the sum of the branches before it and of what came into them.
    assert widest == (4 if name == "resnet20" else 1)


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 4)
        self.c = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.b(self.a(x))
        out: Tensor = self.c(torch.cat([inner, inner[:, :3]], 1))
        return out


class Twice(Joined):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.b(self.a(x)))
        return out


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Joined(), "c.weight has 7 inputs, b.weight before it 4 outputs"),
        (Twice(), "b.weight runs several times"),
        (
            nn.Sequential(nn.Bilinear(3, 3, 2)),
            "walks over linear layers and convolutions",
        ),
    ],
)
def test_what_cannot_be_walked_is_told(model: nn.Module, message: str) -> None:
    with pytest.raises(MethodError, match=message):
        Phew().scores(context_of(model, batches=inputs_of(3), kept=2))


def test_low_sparsities_are_filled_with_large_weights() -> None:
    model = chain(4, 6, 3)
    context = context_of(model, batches=inputs_of(4), kept=42)
    scores = Phew(patience=1e-9).scores(context)
    weights = weights_of(model)
    assert all(torch.isfinite(score).all() for score in scores.values())
    flat = torch.cat([s.flatten() for s in scores.values()])
    size = torch.cat([w.abs().flatten() for w in weights.values()])
    rest = flat < -4096 - 1
    assert torch.equal(flat[rest].argsort(), size[rest].argsort())
    with pytest.raises(MethodError, match="patience=0 must be > 0"):
        Phew(patience=0)


def test_the_first_batch_decides_nothing_but_the_shape() -> None:
    model = chain(4, 6, 3)
    inputs, labels = batch(0)
    shaped = [(inputs.flatten(1)[:, :4], labels)]
    first = Phew().scores(context_of(model, batches=shaped, kept=9))
    again = Phew().scores(context_of(model, batches=inputs_of(4), kept=9))
    assert all(torch.equal(first[name], again[name]) for name in first)
