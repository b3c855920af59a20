"""Initializations: their spreads, what they leave alone, and that the sparse one makes sparse nets trainable."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sparsify_fx
from sparsify_fx.errors import MethodError
from sparsify_fx.initializations import (
    INITIALIZATIONS,
    kaiming_normal,
    kaiming_sparse,
    xavier_normal,
)
from sparsify_fx.programs.owners import programs
from sparsify_fx.train.config import parse_config
from sparsify_fx.train.session import Session, build_session
from tests.conftest import effective, small_net


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def wide_net() -> nn.Sequential:
    """Plain, grouped, transposed and grouped, and linear."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(32, 96, 3),
        nn.Conv2d(96, 64, 3, groups=16),
        nn.ConvTranspose2d(64, 48, 2, groups=4),
        nn.Linear(400, 90),
    )


def units(layer: nn.Module, weight: torch.Tensor) -> torch.Tensor:
    """[output units, inputs], by a loop over the groups of a transposed convolution."""
    if isinstance(layer, nn.ConvTranspose2d):
        return torch.cat(
            [part.transpose(0, 1).flatten(1) for part in weight.chunk(layer.groups)]
        )
    return weight.flatten(1)


@pytest.mark.parametrize("method", ["random", "signin"])
def test_the_spread_is_that_of_the_inputs_which_the_mask_leaves(method: str) -> None:
    model = sparsify_fx.apply(wide_net(), method, sparsity=0.5, allocation="uniform")
    masks = {name: program.current_mask() for name, program in programs(model).items()}
    before = {name: mask.clone() for name, mask in masks.items() if mask is not None}
    kaiming_sparse(model, generator())
    for layer, (name, weight) in zip(model, effective(model).items(), strict=True):
        kept = units(layer, before[name].float()).sum(1)
        normal = (units(layer, weight) * torch.sqrt(kept / 2)[:, None]).flatten()
        living = normal[normal != 0]
        assert living.std().item() == pytest.approx(1, abs=4 / (2 * len(living)) ** 0.5)
        assert living.mean().item() == pytest.approx(0, abs=4 / len(living) ** 0.5)
        assert torch.equal(weight != 0, before[name] == 1)
    assert all(
        torch.equal(programs(model)[name].current_mask(), mask)
        for name, mask in before.items()
    )


def test_units_without_inputs_and_everything_else_stay() -> None:
    model = sparsify_fx.apply(small_net(), "signin", sparsity=0.95)
    others = {
        n: p.detach().clone()
        for n, p in model.named_parameters()
        if "_program" not in n
    }
    kaiming_sparse(model, generator())
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert any(
        (units(model[0], w) == 0).all(1).any() for w in effective(model).values()
    ), "the test needs such a unit"
    assert all(
        torch.equal(value, model.get_parameter(name)) for name, value in others.items()
    )
    tensors, mask = model[0].weight_program.tensors(), model[0].weight_program.mask
    m, w = tensors["m"], tensors["w"]
    assert ((m * m - w * w - 1).abs() < 1e-5).all(), "balanced factors"
    assert (w[mask == 0] == 0).all()


def test_a_random_mask_does_not_depend_on_weights_of_the_same_seed() -> None:
    """Drawn from one stream, the mask would keep the largest weights: all of them positive."""
    torch.manual_seed(0)
    layer = nn.Linear(500, 100)
    mean = layer.weight.detach().mean()
    weight = sparsify_fx.apply(layer, "random", sparsity=0.9, seed=0).weight.detach()
    kept = weight[weight != 0]
    assert abs(kept.mean() - mean) < 4 * kept.std() / len(kept) ** 0.5


def test_the_seed_decides() -> None:
    drawn = []
    for seed in (1, 1, 2):
        model = sparsify_fx.apply(small_net(), "random", sparsity=0.5)
        kaiming_sparse(model, generator(seed))
        drawn.append(effective(model)["7.weight"])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_dense_initializations_have_their_spreads() -> None:
    for draw, fans in ((kaiming_normal, 288), (xavier_normal, 288 + 864)):
        model = wide_net()
        bias = model[0].bias.detach().clone()
        draw(model, generator())
        assert model[0].weight.std().item() == pytest.approx(
            (2 / fans) ** 0.5, rel=0.02
        )
        assert torch.equal(model[0].bias, bias)


def test_which_come_after_apply() -> None:
    assert [name for name in INITIALIZATIONS if INITIALIZATIONS[name].after_apply] == [
        "kaiming_sparse"
    ]
    with pytest.raises(MethodError, match=r"call sparsify_fx\.apply"):
        kaiming_sparse(small_net(), generator())


def session(init: str, **changes: object) -> Session:
    """LeNet-5 (no batch norm) with a random mask at 95 %, as the recipe mnist5k-lenet5 trains it."""
    content = {
        "method": "random",
        "sparsity": 0.95,
        "model": "lenet5",
        "data": "mnist5k",
        "epochs": 6,
        "batch_size": 64,
        "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4},
        "learning_rate": {"curve": "cosine-warmup", "warmup": 1},
        "init": init,
        "device": "cpu",
    }
    return build_session(parse_config(content | changes, "a test"))


def trained_accuracy(init: str, **changes: object) -> float:
    training = session(init, **changes)
    for epoch in range(training.scheduler.epochs):
        for inputs, labels in training.training_batches(epoch):
            training.optimizer.zero_grad()
            training.loss(training.model(inputs), labels).backward()
            training.optimizer.step()
            training.scheduler.step()
    training.model.eval()
    with torch.no_grad():
        right = sum(
            int((training.model(x).argmax(1) == y).sum())
            for x, y in training.test_batches()
        )
    return right / 1000


@pytest.mark.sweep
@pytest.mark.slow
def test_lenet5_at_95_per_cent_trains_only_from_the_sparse_initialization() -> None:
    default, sparse = trained_accuracy("default"), trained_accuracy("kaiming_sparse")
    assert default < 0.6
    assert sparse > 0.85


def test_the_trainer_draws_the_sparse_initialization_after_apply() -> None:
    plain, sparse = session("default"), session("kaiming_sparse")
    ours = effective(sparse.model)
    for name, weight in effective(plain.model).items():
        assert torch.equal(weight != 0, ours[name] != 0)
        assert not torch.equal(weight, ours[name])
    again = effective(session("kaiming_sparse").model)
    assert all(torch.equal(ours[name], again[name]) for name in ours)
