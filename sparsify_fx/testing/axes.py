"""The laws of single axis values: a criterion, parameterization, schedule or penalty, by name or as an object."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_fx.allocations import Global
from sparsify_fx.api import apply, merge
from sparsify_fx.criteria import (
    Criterion,
    PruningContext,
    criterion_name,
    pruning_generator,
)
from sparsify_fx.criteria.choosing import choose_masks
from sparsify_fx.masks import nonzeros
from sparsify_fx.parameterizations import Balancing, Moment, Parameterization
from sparsify_fx.passes import Rescale
from sparsify_fx.penalties import AdaptivePenalty, Observation, Penalty
from sparsify_fx.programs.owners import programs
from sparsify_fx.recipe import axis_value
from sparsify_fx.schedules import Budget, Schedule
from sparsify_fx.schedules.updates import MaskUpdate
from sparsify_fx.testing.laws import merged_at_once
from sparsify_fx.testing.small import (
    batch,
    effective,
    ensure,
    loss_of,
    small_net,
    train_step,
)
from sparsify_fx.testing.training import masks_of, sgd

TOTAL = 1000  # weights of the schedules that are checked


def check_criterion(criterion: str | Criterion) -> None:
    """A score of each weight's shape without NaN; the same for the same seed; the model stays as it is; exact budgets.

    >>> check_criterion("magnitude")
    """
    found: Criterion = _found("criterion", criterion)
    name, model = criterion_name(found), small_net()
    before = copy.deepcopy(model.state_dict())
    for kept in (1, 791, 400):
        first, again = (
            choose_masks(found, _context(found, model, kept)) for _ in range(2)
        )
        ensure(
            nonzeros(first) == kept,
            f"{name}: {nonzeros(first)} weights are kept of a budget of {kept}",
        )
        ensure(
            _alike(first, again),
            f"{name}: the same seed gives other masks the second time",
        )
    later = choose_masks(found, _context(found, model, 200, first))
    ensure(
        all((later[key] <= first[key]).all() for key in first),
        f"{name}: a pruned weight comes back",
    )
    ensure(
        _alike(before, model.state_dict()),
        f"{name}: scoring changes the model; a criterion only reads",
    )
    ensure(
        all(p.grad is None for p in model.parameters()),
        f"{name}: scoring leaves gradients in the model",
    )


def _context(
    criterion: Criterion,
    model: nn.Module,
    kept: int,
    alive: dict[str, Tensor] | None = None,
) -> PruningContext:
    needs = criterion.needs
    return PruningContext(
        weights={
            f"{i}.weight": model.get_parameter(f"{i}.weight").detach()
            for i in (0, 3, 7)
        },
        generator=pruning_generator(seed=3),
        kept=kept,
        allocation=Global(),
        alive=alive,
        model=model if "model" in needs else None,
        batches=[batch()] if "batches" in needs else None,
        loss_fn=loss_of if "loss_fn" in needs else None,
    )


def check_parameterization(parameterization: str | Parameterization) -> None:
    """θ comes back from its factors, within `error_bound`; in a model it trains, copies, loads, prunes and merges.

    One with a balance (see `Balancing`) is restored without a change of θ, and a second time changes nothing.

    >>> from sparsify_fx.parameterizations import Product
    >>> check_parameterization(Product(beta=0.5))
    """
    how: Parameterization = _found("parameterization", parameterization)
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        sizes = torch.logspace(-30, 15, 46, dtype=dtype)
        theta = torch.cat(
            [
                torch.randn(200, generator=generator).to(dtype),
                sizes,
                -sizes,
                torch.zeros(2, dtype=dtype),
            ]
        )
        _splits(how, theta)
    _trains_and_merges(how)


def _splits(how: Parameterization, theta: Tensor) -> None:
    parts, state = how.split(theta), how.state(theta)
    ensure(
        set(parts) == set(how.factors),
        f"{how}: split gives {sorted(parts)}, the factors are {how.factors}",
    )
    for name, part in parts.items():
        ensure(
            part.shape == theta.shape,
            f"{how}: split gives {name} the shape {tuple(part.shape)} of no weight",
        )
        ensure(
            part.dtype == theta.dtype,
            f"{how}: split gives {name} the dtype {part.dtype}, not {theta.dtype}",
        )
    ensure(
        set(how.transient) <= set(state),
        f"{how}: transient names {how.transient}, the state is {sorted(state)}",
    )
    how.refresh(state, Moment(progress=0.0, seed=0))
    if "noisy" in state:
        state["noisy"].zero_()
    value = how.value({**parts, **how.shared(theta), **state})
    off = (value - theta).abs() > how.error_bound(theta)
    if off.any():
        worst = theta[off][0].item()
        ensure(
            False,
            f"{how}: value(split(θ)) misses θ = {worst:g} by more than error_bound, in {theta.dtype}",
        )


def _trains_and_merges(how: Parameterization) -> None:
    model = apply(small_net(), "random", parameterization=how, sparsity=0.5)
    masks, optimizer = masks_of(model), sgd(model)
    twin = copy.deepcopy(model)
    for step in range(3):
        train_step(model, optimizer, step)
    for name, weight in effective(model).items():
        ensure(
            torch.isfinite(weight).all(),
            f"{how}: three steps of SGD make {name} infinite or NaN",
        )
        ensure(
            (weight[masks[name] == 0] == 0).all(),
            f"{how}: SGD moves pruned entries of {name}",
        )
    if isinstance(how, Balancing):
        _rescales(how, model)
    twin.load_state_dict(copy.deepcopy(model.state_dict()))
    model.eval(), twin.eval()
    ensure(
        _alike(effective(model), effective(twin)),
        f"{how}: a loaded state dict computes other weights",
    )
    expected = {
        name: program.effective().clone() for name, program in programs(model).items()
    }
    with merged_at_once():
        merge(model)
    for name, weight in expected.items():
        ensure(
            torch.equal(model.get_parameter(name), weight),
            f"{how}: merge gives another {name} than the program",
        )


def _rescales(how: Parameterization, model: nn.Module) -> None:
    before = {name: program.theta() for name, program in programs(model).items()}
    pruned = {
        name: program.effective() == 0 for name, program in programs(model).items()
    }
    Rescale()(model)
    for name, program in programs(model).items():
        moved = (program.theta() - before[name]).abs() > how.error_bound(before[name])
        ensure(
            not moved.any(),
            f"{how}: Rescale changes the weight {name} by more than error_bound",
        )
        ensure(
            (program.effective()[pruned[name]] == 0).all(),
            f"{how}: Rescale brings pruned entries of {name} back",
        )
    ensure(
        not Rescale()(model).modified,
        f"{how}: factors are unbalanced right after a Rescale, see unbalanced()",
    )


def check_schedule(schedule: str | Schedule) -> None:
    """Updates are in order and within the runs, they end exactly on the budget, and are the same when asked again.

    >>> check_schedule("cycles")
    """
    found: Schedule = _found("schedule", schedule)
    for sparsity in (0.0, 0.5, 0.9, 0.98):
        for epochs in (8, 40):
            _lands(found, Budget(TOTAL, sparsity, epochs))


def _lands(schedule: Schedule, budget: Budget) -> None:
    initial, updates, runs = (
        schedule.initial(budget),
        schedule.updates(budget),
        schedule.runs(budget.sparsity),
    )
    told = f"{schedule} at sparsity {budget.sparsity:g} in {budget.epochs} epochs"
    ensure(
        updates == schedule.updates(budget), f"{told}: other updates when asked again"
    )
    times = [(update.run, update.epoch) for update in updates]
    ensure(
        times == sorted(set(times)),
        f"{told}: updates are not in order, or two at one time: {times}",
    )
    for run, epoch in times:
        ensure(
            0 <= run < runs, f"{told}: an update in run {run}, and runs() says {runs}"
        )
        ensure(
            0 <= epoch < budget.epochs,
            f"{told}: an update at epoch {epoch:g}, beyond the run",
        )
    if initial is None:
        ensure(
            not updates,
            f"{told}: initial() gives no masks, and updates would change them",
        )
        return
    alive = _alive(updates, initial, told)
    ensure(
        alive == budget.kept,
        f"{told}: {alive} of {TOTAL} weights are left, the budget is {budget.kept}",
    )


def _alive(updates: Iterable[MaskUpdate], alive: int, told: str) -> int:
    """Weights left after all updates."""
    for update in updates:
        alive = update.alive(alive, TOTAL)
        ensure(
            0 < alive <= TOTAL, f"{told}: {update} leaves {alive} of {TOTAL} weights"
        )
    return alive


def check_penalty(penalty: str | Penalty, parameterization: Any = "dense") -> None:
    """A finite scalar whose gradient is finite and never reaches a pruned weight; an adaptive one gives two numbers.

    Args:
        parameterization: one that it fits, such as "sigmoid-gate" for a penalty on gates.

    >>> check_penalty("l1")
    >>> check_penalty("gates", "sigmoid-gate")
    """
    found: Penalty = _found("penalty", penalty)
    model = apply(
        small_net(),
        "random",
        parameterization=parameterization,
        penalty=found,
        sparsity=0.5,
    )
    before = copy.deepcopy(effective(model.eval()))
    term = found(programs(model).values())
    ensure(
        term.dim() == 0,
        f"{found}: the term has the shape {tuple(term.shape)}, not that of a scalar",
    )
    ensure(torch.isfinite(term), f"{found}: the term is {term.item()}")
    if term.requires_grad:
        term.backward()  # type: ignore[no-untyped-call]
    for name, program in programs(model).items():
        for factor, tensor in program.factor_tensors().items():
            _no_pull(
                f"{found}: the gradient of {factor} of {name}",
                tensor.grad,
                program.current_mask(),
            )
    ensure(_alike(before, effective(model)), f"{found}: calling it changes the weights")
    if isinstance(found, AdaptivePenalty):
        _adapts(found, model)


def _no_pull(told: str, gradient: Tensor | None, mask: Tensor | None) -> None:
    if gradient is not None and mask is not None:
        ensure(torch.isfinite(gradient).all(), f"{told} is not finite")
        ensure((gradient[mask == 0] == 0).all(), f"{told} reaches pruned entries")


def _adapts(penalty: AdaptivePenalty, model: nn.Module) -> None:
    strengths = torch.zeros(())
    ensure(
        penalty(programs(model).values(), strengths).item() == 0,
        f"{penalty}: with strength 0 the term is not 0",
    )
    level = penalty.strength
    before: Observation | None = None
    for epoch in range(1, 5):
        now = Observation(epoch, 4, epoch / 4, 0.5, 0.1, 1.0, 10.0, 5.0, epoch / 5)
        level, applied = penalty.adapt(level, before, now)
        before = now
        ensure(
            math.isfinite(level) and math.isfinite(applied),
            f"{penalty}: adapt gives {level} and {applied}",
        )


def _found(axis: str, value: Any) -> Any:
    return axis_value(axis, value)


def _alike(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
