"""The laws that hold for every method and every sum of methods, one function each; `check_method` is all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sparsify_fx.api import apply, merge
from sparsify_fx.errors import MethodError
from sparsify_fx.masks import kept_count
from sparsify_fx.programs.owners import programs
from sparsify_fx.recipe import METHODS, find_method
from sparsify_fx.scheduler.scheduler import Scheduler
from sparsify_fx.schedules import Budget
from sparsify_fx.schedules.updates import DrawTicket, MaskUpdate
from sparsify_fx.testing import training
from sparsify_fx.testing.small import (
    batch,
    effective,
    ensure,
    loss_of,
    merged_at_once,
    net_for,
    train_step,
)
from sparsify_fx.testing.states import (
    resumed_training_is_bit_identical,
    same_seed_gives_same_bits,
    states_round_trip,
    storages_train_alike,
)

# Each moves a weight without a gradient in a way of its own: by momentum, by a look ahead, by decay inside or
# outside of the gradient, by dividing by a size of zero.
OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "sgd": training.sgd,
    "nesterov": lambda m: torch.optim.SGD(
        m.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1
    ),
    "adam": lambda m: torch.optim.Adam(m.parameters(), lr=0.01, weight_decay=0.1),
    "adamw": lambda m: torch.optim.AdamW(m.parameters(), lr=0.01, weight_decay=0.1),
    "rmsprop": lambda m: torch.optim.RMSprop(m.parameters(), lr=0.003, momentum=0.9),
}


def check_method(method: str) -> None:
    """Every law, for a registered method or a sum such as "lrr+signin", and its sums with every other method.

    It trains the small net some ten times, a few seconds in all. Raises LawError; UnknownNameError for another name.

    >>> check_method("magnitude")
    """
    find_method(method)
    merge_returns_the_weights(method)
    counts_follow_the_schedule(method)
    for kind in OPTIMIZERS:
        pruned_weights_stay_zero(method, kind)
    pruned_weights_stay_zero(method, "sgd", amp=True)
    no_momentum_is_left(method)
    states_round_trip(method)
    for share in training.SAVED_AT:
        resumed_training_is_bit_identical(method, share)
    same_seed_gives_same_bits(method)
    storages_train_alike(method)
    # A sum is a method of its own: a plugin that names it gets the laws for it as for any other.
    for other in METHODS:
        sums_commute(method, other)


def mergeable(a: str, b: str) -> bool:
    """Whether the two methods have a sum."""
    with contextlib.suppress(MethodError):
        find_method(f"{a}+{b}")
        return True
    return False


def merge_returns_the_weights(method: str) -> None:
    """apply then merge without training gives the weights, the keys and the classes back, within the error bound."""
    # At sparsity 0, so that every weight has to come back; the bound is what `split` may round.
    model = net_for(find_method(method).resolved().criterion, training.SPARSITY)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    classes = [type(module) for module in model.modules()]
    with merged_at_once():
        apply(model, method, sparsity=0.0, batches=[batch()], loss_fn=loss_of)
        bounds = {
            name: program.parameterization.error_bound(before[name])
            for name, program in programs(model).items()
        }
        merge(model)
    ensure(
        [type(module) for module in model.modules()] == classes,
        f"{method}: merge does not restore the classes",
    )
    ensure(
        list(model.state_dict()) == list(before),
        f"{method}: merge does not restore the keys",
    )
    for key, value in model.state_dict().items():
        bound = bounds.get(key, torch.zeros_like(before[key]))
        ensure(
            ((value - before[key]).abs() <= bound).all(),
            f"{method}: apply then merge changes {key}",
        )


def possible_counts(
    method: str, scheduler: Scheduler, counts: Sequence[int]
) -> list[set[int]]:
    """What may live after each step, given the living weights before it: what the schedule states of its own updates.

    One number, but where an update depends on the training (`DrawTicket`).
    """
    chosen, total = find_method(method).resolved().schedule, scheduler.total_weights
    budget = Budget(total, training.SPARSITY, training.EPOCHS)
    initial, updates = chosen.initial(budget), chosen.updates(budget)
    # The timeline has events of other kinds too; mask updates are told by their labels.
    kinds = {update.label(total)[0] for update in updates}
    steps = [event.step for event in scheduler.timeline().events if event.what in kinds]
    due = dict(zip(steps, updates, strict=True))
    # Without masks everything lives; the mask updates of a schedule say what each of them leaves.
    alive = total if initial is None else initial
    found: list[set[int]] = []
    for step in range(scheduler.steps + 1):
        update = due.get(step)
        if isinstance(update, DrawTicket):
            found.append(update.may_leave(alive))
        else:
            found.append({alive if update is None else update.alive(alive, total)})
        alive = counts[step]
    return found


def counts_follow_the_schedule(method: str) -> None:
    """The masks keep at every step what the schedule says, and in the end the budget to the weight."""
    record = training.straight(method)
    total = record.scheduler.total_weights
    chosen = find_method(method).resolved().schedule
    budget = Budget(total, training.SPARSITY, training.EPOCHS)
    masked = chosen.initial(budget) is not None
    end = kept_count(total, training.SPARSITY) if masked else total
    ensure(
        record.counts[-1] == end,
        f"{method}: {record.counts[-1]} weights are left, the budget is {end}",
    )
    expected = possible_counts(method, record.scheduler, record.counts)
    ensure(
        all(n in may for n, may in zip(record.counts, expected, strict=True)),
        f"{method}: the masks keep {record.counts}, the schedule says {expected}",
    )

    # A schedule that only prunes makes counts that only fall. Whether it does is asked of its updates, with
    # as few and as many living weights as there can be, and not of its name.
    if _only_prunes(chosen.updates(budget), total):
        falls = record.counts == sorted(record.counts, reverse=True)
        ensure(
            falls, f"{method}: no update grows the net, and it grows: {record.counts}"
        )
    ensure(
        record.merged_nonzeros <= record.counts[-1],
        f"{method}: merged weights are not zero where they are pruned",
    )


def _only_prunes(updates: Iterable[MaskUpdate], total: int) -> bool:
    """Whether no update lets more weights live than before."""
    return not any(
        update.alive(1, total) > 1 or update.alive(total, total) > total
        for update in updates
    )


def pruned_weights_stay_zero(method: str, kind: str, amp: bool = False) -> None:
    """No step of an optimizer, with autocast or without, moves a pruned weight, here or in an average of the weights.

    Args:
        kind: a key of `OPTIMIZERS`.
    """
    model = training.prepare(method)
    optimizer = OPTIMIZERS[kind](model)
    scheduler = training.schedule(model, optimizer)
    # An average of the weights is a copy of the model that no optimizer and no scheduler touches: its zeros
    # have to come from the masks that it holds.
    average = get_ema_multi_avg_fn(0.9)  # type: ignore[no-untyped-call]
    averaged = AveragedModel(model, multi_avg_fn=average)
    while not scheduler.finished:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
            train_step(model, optimizer, scheduler.step_count)
        _no_gradient_where_pruned(method, model)
        scheduler.observe(accuracy=0.5)
        scheduler.step()
        averaged.update_parameters(model)
        for copied in (model, averaged.module):
            for name, weight in effective(copied).items():
                mask = programs(model)[name].current_mask()
                zero = mask is None or (weight[mask == 0] == 0).all()
                ensure(
                    zero,
                    f"{method} with {kind}: {name} is not zero where it is pruned, at {scheduler.step_count}",
                )


def _no_gradient_where_pruned(method: str, model: nn.Module) -> None:
    """Zeros in the gradient too: an optimizer that divides by its size would make steps of any remainder."""
    for name, program in programs(model).items():
        mask = program.current_mask()
        for factor, tensor in program.factor_tensors().items():
            ensure(
                tensor.grad is not None,
                f"{method}: {factor} of {name} gets no gradient",
            )
            assert tensor.grad is not None  # as `ensure` has found; mypy cannot know
            ensure(
                torch.isfinite(tensor.grad).all(),
                f"{method}: the gradient of {factor} of {name} is not finite",
            )
            gradient = program.restored(tensor.grad)
            kept_out = mask is None or (gradient[mask == 0] == 0).all()
            ensure(
                kept_out,
                f"{method}: a gradient reaches pruned entries of {factor} of {name}",
            )


def no_momentum_is_left(method: str) -> None:
    """A weight that is pruned loses its momentum; one that comes back starts from zero."""
    stale = training.straight(method).stale
    ensure(
        stale == 0,
        f"{method}: a pruned or regrown weight has momentum or a value of {stale:g}",
    )


def sums_commute(a: str, b: str) -> None:
    """ "a+b" is "b+a", or neither can be merged."""
    ensure(
        mergeable(a, b) == mergeable(b, a),
        f"{a}+{b} and {b}+{a}: one can be merged and the other cannot",
    )
    if mergeable(a, b):
        ensure(
            find_method(f"{a}+{b}") == find_method(f"{b}+{a}"),
            f"{a}+{b} is not {b}+{a}",
        )
