"""SNFS and SRigL: where weights move, against loops in numpy written from the papers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.allocations import FanIn
from sparsify_fx.criteria import Momentum
from sparsify_fx.errors import MethodError, SparsityError
from sparsify_fx.masks import nonzeros
from sparsify_fx.programs.owners import current_masks, programs
from tests.criteria.common import batches_of, context_of, net_of, scores_of, weights_of


def test_momentum_smooths_the_gradients_of_the_batches_in_order() -> None:
    model, batches = net_of("plain"), batches_of(4)
    expected = {name: np.zeros(w.shape) for name, w in weights_of(model).items()}
    for inputs, labels in batches:
        model.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        for name in expected:
            gradient = model.get_parameter(name).grad.numpy()  # type: ignore[union-attr]
            expected[name] = 0.9 * expected[name] + 0.1 * gradient
    model.zero_grad()
    scores = scores_of(Momentum(), model, batches=batches)
    for name, value in expected.items():
        np.testing.assert_allclose(scores[name].numpy(), abs(value), rtol=1e-9)
    with pytest.raises(MethodError, match=r"smoothing=1.0 must be in \[0, 1\)"):
        Momentum(smoothing=1.0)


def snfs_counts(
    sizes: dict[str, int], living: dict[str, int], means: dict[str, float], p: float
) -> dict[str, int]:
    """Living weights of each layer after one round of the paper's algorithm 1; shares cut at full layers, in turns."""
    total, left = sum(means.values()), {}
    for name, size in sizes.items():
        zeros = 1 - living[name] / size
        nearly_dense = zeros < 0.2 and means[name] / total > 1 / len(sizes)
        left[name] = living[name] - math.floor(
            (min(zeros, p) if nearly_dense else p) * living[name]
        )
    spare, ideal = float(sum(living.values()) - sum(left.values())), {}
    open_ = dict(means)
    while True:
        shares = {n: spare * open_[n] / sum(open_.values()) for n in open_}
        full = [n for n in open_ if shares[n] > sizes[n] - left[n]]
        if not full:
            ideal |= shares
            return {n: left[n] + round(ideal[n]) for n in sizes}
        for name in full:
            ideal[name] = sizes[name] - left[name]
            spare -= ideal[name]
            del open_[name]


def train_once(
    method: str, model: nn.Module, sparsity: float, **axes: Any
) -> tuple[Any, ...]:
    """Masks, weights and scheduler just before and after the first update."""
    given: Any = {"batches": batches_of(), "loss_fn": F.cross_entropy}
    sparsify_fx.apply(model, method, sparsity=sparsity, **given, **axes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = sparsify_fx.Scheduler(
        model, optimizer, epochs=4, steps_per_epoch=1, learning_rate="constant", **given
    )
    found = programs(model)
    before = {name: mask.clone() for name, mask in current_masks(found).items()}
    weights = {name: program.effective().clone() for name, program in found.items()}
    scheduler.step()
    return before, weights, current_masks(found), scheduler


@pytest.mark.parametrize("sparsity", [0.5, 0.1])
def test_snfs_moves_weights_to_the_layers_of_largest_momentum(sparsity: float) -> None:
    plain = net_of("plain")
    before, weights, after, scheduler = train_once("snfs", net_of("plain"), sparsity)
    with torch.no_grad():
        for name, weight in weights.items():
            plain.get_parameter(name).copy_(weight)
    scores = Momentum().scores(context_of(plain))
    sizes = {name: mask.numel() for name, mask in before.items()}
    living = {name: int(mask.sum()) for name, mask in before.items()}
    means = {
        name: float(scores[name][mask == 1].mean()) for name, mask in before.items()
    }
    fraction = 0.5 / 2 * (1 + math.cos(math.pi / 4))
    expected = snfs_counts(sizes, living, means, fraction)
    found = {name: int(mask.sum()) for name, mask in after.items()}
    assert all(abs(found[name] - expected[name]) <= 1 for name in found)
    assert found != living
    assert sum(found.values()) == sum(living.values()) == scheduler.nonzeros()


def even(scores: np.ndarray, total: int) -> np.ndarray:
    """The best of each row, round by round, the last round for the rows whose next one is best."""
    mask, left = np.zeros(scores.shape, bool), total
    while left:
        open_ = [
            r for r in range(len(scores)) if (~mask[r] & (scores[r] > -np.inf)).any()
        ]
        next_ = {
            r: int(np.argmax(np.where(mask[r], -np.inf, scores[r]))) for r in open_
        }
        if len(open_) > left:
            open_ = sorted(open_, key=lambda r: -scores[r, next_[r]])[:left]
        for r in open_:
            mask[r, next_[r]] = True
            left -= 1
    return mask


@pytest.mark.parametrize("total", [1, 12, 16, 29, 63, 64])
def test_fan_in_keeps_as_many_of_each_unit(total: int) -> None:
    generator = torch.Generator().manual_seed(total)
    scores = torch.rand(8, 4, 2, generator=generator)
    scores[3, 1:] = -math.inf
    scores[5] = -math.inf
    total = min(total, 8 * 8 - 6 - 8)
    (mask,) = FanIn(layers="uniform").masks({"a": scores}, total).values()
    expected = even(scores.flatten(1).numpy(), total)
    np.testing.assert_array_equal(mask.flatten(1).numpy() == 1, expected)


def test_layers_share_the_budget_by_erk() -> None:
    sizes = {"a": torch.rand(16, 20), "b": torch.rand(10, 16), "c": torch.rand(5, 10)}
    masks = FanIn().masks(sizes, 150)
    assert nonzeros(masks) == 150
    shares = {name: sum(score.shape) * 150 / 77 for name, score in sizes.items()}
    for name, mask in masks.items():
        assert abs(int(mask.sum()) - shares[name]) <= 1
        assert int(mask.sum(1).max() - mask.sum(1).min()) <= 1


def srigl(
    sizes: np.ndarray, wanted: np.ndarray, dropped: int, grown: int, gamma: float
) -> np.ndarray:
    """Section 3 of SRigL, unit by unit; a budget that the units divide."""
    rows, cols = sizes.shape
    living = int((sizes > -np.inf).sum())
    stay = np.zeros(sizes.size, bool)
    stay[np.argsort(-sizes.ravel(), kind="stable")[: living - dropped]] = True
    salient = stay.copy()
    salient[np.argsort(-wanted.ravel(), kind="stable")[:grown]] = True
    stay, salient = stay.reshape(sizes.shape), salient.reshape(sizes.shape)
    total = living - dropped + grown
    least = max(1, int(gamma * total / rows)) if gamma else 0
    needed = math.ceil(total / cols)
    least = min(least, sorted(salient.sum(1))[::-1][needed - 1])
    active = [r for r in range(rows) if salient[r].sum() >= least]
    mask = np.zeros(sizes.shape, bool)
    for r in active:
        best = np.argsort(-np.where(stay[r], sizes[r], -np.inf), kind="stable")
        mine = [i for i in best if stay[r, i]][: total // len(active)]
        others = [
            i
            for i in np.argsort(-wanted[r], kind="stable")
            if i not in mine and not stay[r, i]
        ]
        mask[r, mine + others[: total // len(active) - len(mine)]] = True
    return mask


@pytest.mark.parametrize(("gamma", "active"), [(0.0, 8), (0.6, 6)])
def test_srigl_gives_up_units_and_fills_the_others(gamma: float, active: int) -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(8, 12, generator=generator)
    weight[:2] *= 0.01
    mask = FanIn("uniform").masks({"a": torch.rand(8, 12, generator=generator)}, 24)[
        "a"
    ]
    wanted = torch.rand(8, 12, generator=generator)
    wanted[:2] *= 0.01
    sizes = weight.abs().masked_fill(mask == 0, -math.inf)
    found = FanIn(salient=gamma).regrown(sizes, wanted, (8, 8), last=False)
    expected = srigl(sizes.numpy(), wanted.numpy(), 8, 8, gamma)
    np.testing.assert_array_equal(found.numpy() == 1, expected)
    assert int(found.any(1).sum()) == active
    last = FanIn(salient=gamma).regrown(sizes, wanted, (8, 8), last=True)
    assert (last.sum(1) == 3).all()


def transposed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2),
        nn.Tanh(),
        nn.ConvTranspose2d(6, 4, 3),
        nn.Flatten(),
        nn.Linear(100, 4),
    ).double()


@pytest.mark.parametrize("build", [transposed, lambda: net_of("bn")])
def test_srigl_trains_with_a_constant_fan_in(build: Any) -> None:
    torch.manual_seed(0)
    model = build()
    before, _, after, scheduler = train_once("srigl", model, 0.6)
    assert any(not torch.equal(before[name], mask) for name, mask in after.items())
    assert scheduler.nonzeros() == sum(int(mask.sum()) for mask in before.values())
    for name, mask in after.items():
        units: Tensor = mask.transpose(0, 1) if mask.shape[:2] == (6, 4) else mask
        counts = units.flatten(1).sum(1)
        living = counts[counts > 0]
        assert int(living.max() - living.min()) <= 1, name
    with pytest.raises(SparsityError, match="salient in"):
        FanIn(salient=1.0)
