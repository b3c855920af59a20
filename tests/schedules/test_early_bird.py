"""Early-bird tickets against a training written here from [You 2020]: looks, distances, the draw, and what goes on."""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsify_fx
from sparsify_fx.errors import MethodError
from sparsify_fx.masks import kept_count
from sparsify_fx.programs.owners import programs
from sparsify_fx.scheduler.tickets import mask_distance
from sparsify_fx.schedules import EarlyBird

EPOCHS, STEPS, LR, SPARSITY, UNTIL = 14, 3, 0.3, 0.7, 0.9
# Within the fourth epoch: at its end the third distance comes in.
SAVED = 3 * STEPS + 1


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 30, bias=False), nn.Tanh(), nn.Linear(30, 3, bias=False)
    )


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step % 4)
    inputs = torch.randn(24, 6, generator=generator)
    return inputs, inputs[:, :3].argmax(1)


@dataclass
class Reference:
    """Plain SGD by hand: (epoch of the draw, weights at the end, distances of all looks)."""

    drawn: int | None
    weights: list[Tensor]
    distances: list[float]


def reference(below: float, count: int, of: str) -> Reference:
    weights = [parameter.detach().clone() for parameter in net().parameters()]
    total = sum(weight.numel() for weight in weights)
    masks: list[Tensor] | None = None
    last: Tensor | None = None
    drawn: int | None = None
    distances: list[float] = []
    for step in range(1, EPOCHS * STEPS + 1):
        leaves = [weight.clone().requires_grad_() for weight in weights]
        inputs, labels = batch(step - 1)
        F.cross_entropy(
            torch.tanh(inputs @ leaves[0].T) @ leaves[1].T, labels
        ).backward()
        weights = [leaf.detach() - LR * leaf.grad for leaf in leaves]  # type: ignore[operator]
        if step % STEPS == 0 and masks is None and step // STEPS <= UNTIL * EPOCHS:
            size = torch.cat([weight.abs().flatten() for weight in weights])
            chosen = (
                size
                >= size.sort(descending=True).values[kept_count(total, SPARSITY) - 1]
            )
            if last is not None:
                changed = int((chosen ^ last).sum())
                base = total if of == "all" else int(chosen.sum() + last.sum())
                distances.append(changed / base)
            last = chosen
            if len(distances) >= count and max(distances[-count:]) <= below:
                drawn = step // STEPS
                first, second = chosen.split([w.numel() for w in weights])
                masks = [first.view_as(weights[0]), second.view_as(weights[1])]
        if masks is not None:
            weights = [w * m for w, m in zip(weights, masks, strict=True)]
    return Reference(drawn, weights, distances)


def started(
    **options: Any,
) -> tuple[nn.Module, torch.optim.Optimizer, sparsify_fx.Scheduler]:
    schedule = EarlyBird(until=UNTIL, **options)
    model = sparsify_fx.apply(
        net(), "early-bird", sparsity=SPARSITY, schedule=schedule, seed=1
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    scheduler = sparsify_fx.Scheduler(
        model, optimizer, epochs=EPOCHS, steps_per_epoch=STEPS, learning_rate="constant"
    )
    return model, optimizer, scheduler


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: sparsify_fx.Scheduler,
    steps: int,
) -> list[float]:
    """The density after each step."""
    found = []
    for _ in range(steps):
        inputs, labels = batch(scheduler.step_count)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        scheduler.step()
        found.append(scheduler.density())
    return found


@pytest.mark.parametrize("of", ["kept", "all"])
def test_the_ticket_is_drawn_when_the_reference_draws_it(of: str) -> None:
    # 1. A threshold that is met neither at the first look nor at the last: the least of the first half.
    dense = reference(-1.0, 2, of).distances
    windows = [max(dense[i : i + 2]) for i in range(len(dense) - 1)]
    place = min(range(len(windows) // 2 + 1), key=windows.__getitem__)
    below = windows[place]
    wanted = reference(below, 2, of)
    assert wanted.drawn == place + 3, (
        "the second of two distances is that of epochs place + 2 and place + 3"
    )
    assert 3 < wanted.drawn < UNTIL * EPOCHS - 1, dense

    # 2. Ours: dense until then, the ticket from then on, the same weights in the end.
    model, optimizer, scheduler = started(below=below, distances=2, of=of)
    densities = train(model, optimizer, scheduler, scheduler.steps)
    pruned = [step for step, density in enumerate(densities, start=1) if density < 1]
    assert pruned[0] == wanted.drawn * STEPS
    assert len({densities[step - 1] for step in pruned}) == 1
    for program, weight in zip(programs(model).values(), wanted.weights, strict=True):
        torch.testing.assert_close(program.effective(), weight, rtol=1e-4, atol=1e-6)


def test_a_mask_that_never_settles_is_drawn_at_the_latest() -> None:
    model, optimizer, scheduler = started(below=0.0)
    densities = train(model, optimizer, scheduler, scheduler.steps)
    latest = round(UNTIL * EPOCHS * STEPS)
    assert densities[latest - 2] == 1
    assert densities[latest - 1] == pytest.approx(1 - SPARSITY, abs=0.01)


def test_a_training_goes_on_with_the_looks_that_it_had() -> None:
    options = {"below": 0.12, "distances": 3}
    whole = started(**options)
    straight = train(*whole, whole[2].steps)
    first = started(**options)
    begun = train(*first, SAVED)
    # Drawn at the first look after the state is saved, by distances of which two lie before.
    assert straight.index(min(straight)) == 4 * STEPS - 1
    assert begun[-1] == 1
    buffer = io.BytesIO()
    torch.save([part.state_dict() for part in first], buffer)
    buffer.seek(0)
    states = torch.load(buffer, weights_only=True)
    second = started(**options)
    for part, state in zip(second, states, strict=True):
        part.load_state_dict(copy.deepcopy(state))
    assert begun + train(*second, whole[2].steps - SAVED) == straight
    for a, b in zip(
        programs(whole[0]).values(), programs(second[0]).values(), strict=True
    ):
        assert torch.equal(a.effective(), b.effective())


def test_distances() -> None:
    a = {"x": torch.tensor([1, 1, 1, 0, 0, 0, 0, 0]), "y": torch.tensor([1, 0])}
    b = {"x": torch.tensor([0, 1, 1, 1, 0, 0, 0, 0]), "y": torch.tensor([1, 0])}
    assert mask_distance(a, b, "kept") == 2 / 8
    assert mask_distance(a, b, "all") == 2 / 10
    assert mask_distance(a, a, "kept") == 0


def test_at_sparsity_95_the_papers_distance_is_met_by_masks_of_chance() -> None:
    """Why the share of the ticket is the default."""
    generator = torch.Generator().manual_seed(0)
    a, b = ((torch.rand(20000, generator=generator) < 0.05).int() for _ in range(2))
    assert mask_distance({"w": a}, {"w": b}, "all") < 0.1
    assert mask_distance({"w": a}, {"w": b}, "kept") > 0.9


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"below": 2}, "below in \\[0, 1\\]"),
        ({"distances": 0}, "distances >= 1"),
        ({"distances": True}, "distances >= 1"),
        ({"every": 0}, "every > 0"),
        ({"until": 1.0}, "until in \\(0, 1\\)"),
        ({"of": "channels"}, "'kept', the share of the ticket"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(MethodError, match=told):
        EarlyBird(**options)
