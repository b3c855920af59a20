"""str-constant: the protocol of STR, against a training loop in plain torch written from its formulas."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.parameterizations import SoftThreshold

STEPS, LR, DECAY, START = 40, 0.2, 0.15, -6.0


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(32, 12, generator=generator), torch.randint(
        0, 3, (32,), generator=generator
    )


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(12, 20, bias=False), nn.Tanh(), nn.Linear(20, 3, bias=False)
    )


def plain() -> list[Tensor]:
    """θ = sign(w) relu(|w| − σ(s)), SGD with weight decay on s alone."""
    weights = [layer.weight.detach().clone() for layer in net()[::2]]  # type: ignore[union-attr]
    s = [torch.tensor(START) for _ in weights]
    weights = [w + w.sign() * torch.sigmoid(t) for w, t in zip(weights, s, strict=True)]
    inputs, labels = data()
    for _ in range(STEPS):
        leaves = [t.clone().requires_grad_() for t in (*weights, *s)]
        w, t = leaves[:2], leaves[2:]
        a, b = (
            x.sign() * F.relu(x.abs() - torch.sigmoid(y))
            for x, y in zip(w, t, strict=True)
        )
        F.cross_entropy(torch.tanh(inputs @ a.T) @ b.T, labels).backward()
        new = [leaf.detach() - LR * leaf.grad for leaf in leaves]  # type: ignore[operator]
        weights = new[:2]
        s = [y - LR * DECAY * old for y, old in zip(new[2:], s, strict=True)]
    return [
        x.sign() * F.relu(x.abs() - torch.sigmoid(y))
        for x, y in zip(weights, s, strict=True)
    ]


def test_the_protocol_of_str_is_that_of_its_paper() -> None:
    model = sparsify_fx.apply(
        net(),
        "str-constant",
        parameterization=SoftThreshold(start=START),
        penalty={"name": "thresholds", "strength": DECAY, "reach": 1.0},
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    scheduler = sparsify_fx.Scheduler(
        model, optimizer, epochs=4, steps_per_epoch=STEPS // 4, learning_rate=None
    )
    inputs, labels = data()
    while not scheduler.finished:
        optimizer.zero_grad()
        (F.cross_entropy(model(inputs), labels) + scheduler.penalty()).backward()
        optimizer.step()
        scheduler.step()
    sparsify_fx.merge(model)
    zeros = 0
    for layer, expected in zip(model[::2], plain(), strict=True):
        found = layer.weight.detach()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        assert torch.equal(found == 0, expected == 0)
        zeros += int((found == 0).sum())
    # Nothing was asked for, and something came out.
    assert 30 < zeros < 300
