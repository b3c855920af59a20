"""Sign-In against a reference written from Algorithm 1 of [Gadhikar 2025], step for step."""

from __future__ import annotations

import torch
from torch.func import functional_call
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.actions import RescaleEvery
from sparsify_fx.programs.owners import programs
from tests.conftest import batch, effective, small_net

BETA, EPOCHS, STEPS, T2, LR = 1.0, 10, 2, 8, 0.05


def split(theta: torch.Tensor) -> list[torch.Tensor]:
    """Appendix B: m0 = u, w0 = x/u, u = sqrt(α + sqrt(x² + α²)), α = β/2."""
    u = (BETA / 2 + (theta**2 + BETA**2 / 4).sqrt()).sqrt()
    return [u, theta / u]


def test_signin_equals_algorithm_1() -> None:
    model = sparsify_fx.apply(
        small_net(),
        "signin",
        sparsity=0.6,
        actions=RescaleEvery(every=2, until=T2),
        seed=4,
    )
    masks = {
        name: program.current_mask().float()
        for name, program in programs(model).items()
    }
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    scheduler = sparsify_fx.Scheduler(
        model, optimizer, epochs=EPOCHS, steps_per_epoch=STEPS, learning_rate="constant"
    )

    net = small_net()
    factors = {
        name: [
            part.double().float()
            for part in split(net.get_parameter(name).detach() * masks[name])
        ]
        for name in masks
    }
    others = [p for name, p in net.named_parameters() if name not in masks]
    leaves = [
        part.requires_grad_() for pair in factors.values() for part in pair
    ] + others
    reference = torch.optim.SGD(leaves, lr=LR, momentum=0.9)
    for epoch in range(1, EPOCHS + 1):
        if epoch % 2 == 0 and epoch < T2:
            with torch.no_grad():
                for pair in factors.values():
                    for part, new in zip(pair, split(pair[0] * pair[1]), strict=True):
                        part.copy_(new)
        for _ in range(STEPS):
            inputs, labels = batch(scheduler.step_count)
            optimizer.zero_grad(), reference.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            theta = {name: masks[name] * m * w for name, (m, w) in factors.items()}
            F.cross_entropy(functional_call(net, theta, (inputs,)), labels).backward()
            optimizer.step(), reference.step(), scheduler.step()
            for name, weight in effective(model).items():
                m, w = factors[name]
                torch.testing.assert_close(
                    weight, masks[name] * (m * w).detach(), rtol=0, atol=1e-6
                )
    assert scheduler.finished
    moved = (
        effective(model)["7.weight"]
        - small_net().get_parameter("7.weight") * masks["7.weight"]
    )
    assert moved.abs().max() > 0.01, (
        "the comparison must not be of two nets that stand still"
    )
