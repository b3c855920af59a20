"""rounded-gate and rare-gems: gates, gradients and levels against numpy; weights that are fixed, then trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.errors import MethodError
from sparsify_fx.parameterizations import RoundedGate
from sparsify_fx.programs.owners import programs
from tests.conftest import batch, small_net


def parts(trained: float) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "dense": torch.randn(5, 6, generator=generator),
        "probability": torch.rand(5, 6, generator=generator) / 2,
        "trained": torch.tensor(trained),
    }


@pytest.mark.parametrize("trained", [0.0, 1.0])
def test_gates_round_and_gradients_go_where_they_should(trained: float) -> None:
    how, tensors = RoundedGate(scale=2.0), parts(trained)
    dense, p = (tensors[name].requires_grad_() for name in ("dense", "probability"))
    upstream = torch.randn(5, 6)
    value = how.value(tensors)
    value.backward(upstream)
    kept = np.rint(2 * p.detach().numpy())
    np.testing.assert_array_equal(value.detach().numpy(), dense.detach().numpy() * kept)
    torch.testing.assert_close(p.grad, 2 * upstream * dense.detach())
    torch.testing.assert_close(dense.grad, upstream * torch.tensor(kept) * trained)


@pytest.mark.parametrize("progress", [0.0, 0.05, 0.31, 0.99])
def test_the_lowest_probabilities_of_all_weights_are_taken_away(
    progress: float,
) -> None:
    how = RoundedGate(density=0.1)
    generator = torch.Generator().manual_seed(1)
    values = [torch.rand(n, generator=generator) * 1.4 - 0.2 for n in (30, 50)]
    found = how.projected([{"probability": v} for v in values], progress)
    flat = torch.cat([part["probability"] for part in found]).numpy()
    clipped = np.clip(torch.cat(values).numpy(), 0, 1)
    kept = int(np.ceil(80 * 0.1 ** (int(progress * 10) / 10)))
    # Those at the upper end tie, and ties stay.
    least = np.sort(clipped)[80 - kept]
    np.testing.assert_array_equal(flat, np.where(clipped >= least, clipped, 0))
    again = how.projected(
        [{"probability": part["probability"]} for part in found], progress
    )
    assert all(
        torch.equal(a["probability"], b["probability"])
        for a, b in zip(found, again, strict=True)
    )


def test_weights_are_fixed_until_the_masks_are_final_and_train_then() -> None:
    model: Any = small_net()
    first = {f"{i}.weight": model[i].weight.detach().clone() for i in (0, 3, 7)}
    sparsify_fx.apply(model, "rare-gems", sparsity=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = sparsify_fx.Scheduler(
        model, optimizer, epochs=6, steps_per_epoch=4, learning_rate="constant"
    )
    found, losses = programs(model), []
    while not scheduler.finished:
        inputs, labels = batch(0)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
        scheduler.step()
        fixed = all(
            torch.equal(theta[theta != 0], first[name][theta != 0])
            for name, theta in ((n, p.effective()) for n, p in found.items())
        )
        # The pruning is after step 12; the first step of the weights is the next.
        assert fixed == (scheduler.step_count <= 12)
    assert scheduler.nonzeros() == 396
    assert losses[-1] < losses[12]


def test_wrong_options_are_explained() -> None:
    with pytest.raises(MethodError, match="levels >= 1"):
        RoundedGate(levels=0)
