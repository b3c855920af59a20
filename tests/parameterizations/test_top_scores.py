"""top-scores and edge-popup: gates against sorting in numpy, straight-through gradients, weights that never move."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.errors import MethodError
from sparsify_fx.parameterizations import ByLayer, Dense, TopScores, fitted
from sparsify_fx.programs.owners import programs
from tests.conftest import batch, small_net


def parts(seed: int, share: float, *shape: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    dense, score = (torch.randn(shape, generator=generator) for _ in range(2))
    return {"dense": dense, "score": score, "share": torch.tensor(share)}


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("shape", [(7,), (4, 5), (3, 2, 3, 3)])
def test_the_largest_scores_of_a_layer_are_open(
    share: float, shape: tuple[int, ...]
) -> None:
    tensors = parts(0, share, *shape)
    value = TopScores().value(tensors).numpy()
    size = abs(tensors["score"].numpy()).ravel()
    kept = min(size.size, int(np.floor(np.float32(share) * size.size)) + 1)
    expected = np.zeros(size.size, np.float32)
    best = np.argsort(-size, kind="stable")[:kept]
    expected[best] = tensors["dense"].numpy().ravel()[best]
    np.testing.assert_array_equal(value.ravel(), expected)


def test_gradients_go_straight_through_to_the_scores_alone() -> None:
    tensors = parts(1, 0.4, 5, 6)
    dense, score = (tensors[name].requires_grad_() for name in ("dense", "score"))
    upstream = torch.randn(5, 6)
    TopScores().value(tensors).backward(upstream)
    expected = upstream * dense.detach() * score.detach().sign()
    torch.testing.assert_close(score.grad, expected)
    assert dense.grad is not None
    assert not dense.grad.any()


def test_settled_gates_stay_as_they_are_whatever_the_scores_do() -> None:
    tensors = parts(2, 0.3, 8, 8)
    value = TopScores().value(tensors)
    settled = TopScores().settle(tensors)
    assert torch.equal(TopScores().value({**tensors, **settled}), value)
    moved = {**settled, "score": settled["score"] + torch.randn(8, 8)}
    final = {**tensors, **moved, "share": torch.ones(())}
    assert torch.equal(TopScores().value(final), value)


def test_apply_tells_the_density() -> None:
    how: Any = fitted(ByLayer({"a": TopScores(), "*": Dense()}), 0.9)
    assert how.by_pattern["a"].density == pytest.approx(0.1)
    assert how.by_pattern["*"] == Dense()
    with pytest.raises(MethodError, match=r"density=0.0 must be in \(0, 1\]"):
        TopScores(density=0.0)


def train(sparsity: float) -> tuple[nn.Module, dict[str, Tensor], dict[str, int]]:
    """The small net after edge-popup; its first weights, and how many gates were open before the end, by weight."""
    model = small_net()
    first = {f"{i}.weight": model[i].weight.detach().clone() for i in (0, 3, 7)}
    sparsify_fx.apply(model, "edge-popup", sparsity=sparsity)
    optimizer = torch.optim.SGD(
        sparsify_fx.parameter_groups(model, weight_decay=0.1), lr=0.5, momentum=0.9
    )
    scheduler = sparsify_fx.Scheduler(model, optimizer, epochs=4, steps_per_epoch=6)
    found, losses, open_ = programs(model), [], {}
    while not scheduler.finished:
        inputs, labels = batch(0)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
        if scheduler.step_count == 10:
            open_ = {name: int((p.theta() != 0).sum()) for name, p in found.items()}
        scheduler.step()
    assert np.mean(losses[-6:]) < np.mean(losses[:6]) - 0.05
    return sparsify_fx.merge(model), first, open_


@pytest.mark.parametrize("sparsity", [0.5, 0.8])
def test_a_net_is_found_among_weights_that_are_never_trained(sparsity: float) -> None:
    model, first, open_ = train(sparsity)
    left = 0
    for name, weight in first.items():
        found = model.get_parameter(name).detach()
        kept = found != 0
        assert torch.equal(found[kept], weight[kept])
        assert open_[name] == int((1 - sparsity) * weight.numel()) + 1
        assert abs(int(kept.sum()) - (1 - sparsity) * weight.numel()) <= 1
        left += int(kept.sum())
    assert left == round((1 - sparsity) * 792)


def test_living_storage_is_refused_with_the_reason() -> None:
    with pytest.raises(MethodError, match="those of a layer compete"):
        sparsify_fx.apply(
            small_net(), "random", parameterization="top-scores", storage="living"
        )
