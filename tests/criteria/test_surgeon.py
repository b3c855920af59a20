"""Weights that make up for those that go: updates and losses against dense algebra in numpy, and within a training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.criteria import CAP, PruningContext, WoodFisher
from sparsify_fx.criteria.choosing import choose
from sparsify_fx.errors import MethodError
from sparsify_fx.programs.owners import programs
from tests.criteria.common import batches_of, context_of, net_of, scores_of, weights_of
from tests.criteria.test_fisher import single_gradients

DAMPING, BLOCK = 1e-3, 7


def fisher_of(model: nn.Module, name: str, living: Any = 1.0) -> np.ndarray:
    """λI + (1/N) Σ g gᵀ of one weight, dense."""
    rows = np.stack(
        [g[name].flatten().numpy() * living for g in single_gradients(model)]
    )
    return rows.T @ rows / len(rows) + DAMPING * np.eye(rows.shape[1])


def blocks_of(size: int) -> list[slice]:
    return [slice(start, start + BLOCK) for start in range(0, size, BLOCK)]


def best_without(theta: np.ndarray, fisher: np.ndarray, gone: list[int]) -> np.ndarray:
    """The minimum of (θ' − θ)ᵀ F (θ' − θ) with θ' = 0 where weights go: a least-squares problem in F^½."""
    root = np.linalg.cholesky(fisher).T
    stay = [i for i in range(len(theta)) if i not in gone]
    found = np.zeros_like(theta)
    found[stay] = np.linalg.lstsq(root[:, stay], root @ theta, rcond=None)[0]
    return found


def loss_without(theta: np.ndarray, fisher: np.ndarray, gone: list[int]) -> float:
    change = best_without(theta, fisher, gone) - theta
    return float(change @ fisher @ change) / 2


def greedy(theta: np.ndarray, fisher: np.ndarray) -> np.ndarray:
    """The loss of the block when each weight goes, the cheapest of all that are left each time."""
    losses, gone = np.zeros_like(theta), list[int]()
    while len(gone) < len(theta):
        left = [i for i in range(len(theta)) if i not in gone]
        costs = [loss_without(theta, fisher, [*gone, i]) for i in left]
        gone.append(left[int(np.argmin(costs))])
        losses[gone[-1]] = min(costs)
    return losses


@pytest.mark.parametrize("kind", ["bn", "plain"])
def test_cap_scores_a_weight_by_the_loss_after_all_removals_up_to_it(kind: str) -> None:
    model = net_of(kind)
    scores = scores_of(CAP(block=BLOCK, damping=DAMPING), model)
    for name, weight in weights_of(model).items():
        fisher, theta = fisher_of(model, name), weight.flatten().numpy()
        found = scores[name].flatten().numpy()
        for part in blocks_of(theta.size)[:6]:
            expected = greedy(theta[part], fisher[part, part])
            np.testing.assert_allclose(found[part], expected, rtol=1e-4, atol=1e-12)


def separately(theta: np.ndarray, fisher: np.ndarray, gone: list[int]) -> np.ndarray:
    """θ − Σ_q θ_q F⁻¹e_q / [F⁻¹]_qq, one weight after the other."""
    inverse, found = np.linalg.inv(fisher), theta.copy()
    for q in gone:
        found -= theta[q] / inverse[q, q] * inverse[:, q]
    found[gone] = 0
    return found


UPDATES = {
    "separate": (WoodFisher(BLOCK, DAMPING, update="separate"), separately),
    "joint": (WoodFisher(BLOCK, DAMPING, update="joint"), best_without),
    "cap": (CAP(BLOCK, DAMPING), best_without),
}


@pytest.mark.parametrize("update", list(UPDATES))
@pytest.mark.parametrize("pruned_before", [False, True])
def test_the_weights_that_stay_make_up_for_those_that_go(
    update: str, pruned_before: bool
) -> None:
    criterion, reference = UPDATES[update]
    model, alive = net_of("plain"), None
    if pruned_before:
        alive = half_pruned(model)
    context = context_of(model, alive=alive, kept=100)
    masks, weights = choose(criterion, context)
    assert weights is not None
    assert sum(int(mask.sum()) for mask in masks.values()) == 100
    for name, weight in weights_of(model).items():
        living = 1.0 if alive is None else alive[name].flatten().numpy()
        fisher, theta = fisher_of(model, name, living), weight.flatten().numpy()
        kept = masks[name].flatten().numpy() == 1
        for part in blocks_of(theta.size):
            gone = [int(i) for i in np.flatnonzero(~kept[part] & (theta[part] != 0))]
            expected = reference(theta[part], fisher[part, part], gone) * kept[part]
            found = weights[name].flatten().numpy()[part]
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-8)


def half_pruned(model: nn.Module) -> dict[str, Tensor]:
    """Masks of half of the weights, which the model gets too."""
    alive = {}
    for name, weight in weights_of(model).items():
        alive[name] = (torch.arange(weight.numel()) % 2).reshape(weight.shape).byte()
        with torch.no_grad():
            model.get_parameter(name).mul_(alive[name])
    return alive


def trained_net() -> nn.Module:
    model = net_of("plain")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        for inputs, labels in batches_of(2, 16):
            F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    return model


@torch.no_grad()
def loss_of(model: nn.Module) -> float:
    return sum(
        float(F.cross_entropy(model(inputs), labels))
        for inputs, labels in batches_of(2, 16)
    )


def test_the_update_leaves_less_loss_than_the_mask_alone() -> None:
    given: dict[str, Any] = {"batches": batches_of(2, 16), "loss_fn": F.cross_entropy}
    losses = {}
    for update in ("none", "separate", "joint"):
        criterion = WoodFisher(damping=1e-3, update=update)
        model = trained_net()
        sparsify_fx.apply(
            model,
            criterion=criterion,
            method="woodfisher",
            schedule="at-init",
            sparsity=0.3,
            **given,
        )
        losses[update] = loss_of(sparsify_fx.merge(model))
    assert losses["joint"] < losses["none"]
    assert losses["separate"] < losses["none"]


@pytest.mark.parametrize("storage", ["full", "living"])
def test_a_pruning_in_a_training_writes_the_update(storage: str) -> None:
    given: dict[str, Any] = {"batches": batches_of(), "loss_fn": F.cross_entropy}
    model = net_of("plain")
    sparsify_fx.apply(model, "cap", sparsity=0.5, storage=storage, **given)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = sparsify_fx.Scheduler(
        model, optimizer, epochs=1, steps_per_epoch=1, learning_rate="constant", **given
    )
    before = {name: program.effective() for name, program in programs(model).items()}
    plain = net_of("plain")
    context: PruningContext = context_of(
        plain,
        alive={n: torch.ones_like(w, dtype=torch.uint8) for n, w in before.items()},
    )
    scheduler.step()
    kept = scheduler.nonzeros()
    masks, weights = choose(CAP(), context_of(plain, alive=context.alive, kept=kept))
    assert weights is not None
    for name, program in programs(model).items():
        assert torch.equal(program.current_mask(), masks[name])  # type: ignore[arg-type]
        torch.testing.assert_close(program.effective(), weights[name])
        assert not torch.equal(program.effective(), before[name] * masks[name])


def test_wrong_options_are_explained() -> None:
    with pytest.raises(
        MethodError, match="update='both' must be one of 'none', 'separate'"
    ):
        WoodFisher(update="both")
    with pytest.raises(MethodError, match="cap: block, samples and chunk must be >= 1"):
        CAP(block=0)
