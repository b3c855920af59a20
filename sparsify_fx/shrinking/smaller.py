"""shrink: cut out of a model what nothing reads."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from sparsify_fx.budgets.plain import check_whole, plain_copy
from sparsify_fx.coupling.groups import Coupling, coupled_groups
from sparsify_fx.errors import LayerError, SchedulerError
from sparsify_fx.optimizer_states.holders import is_optimizer
from sparsify_fx.programs.owners import programs
from sparsify_fx.scheduler import Scheduler
from sparsify_fx.scheduler.smaller import check_follows, follow
from sparsify_fx.shrinking.cutting import cut_model
from sparsify_fx.shrinking.optimizer import check_states, cut_states
from sparsify_fx.shrinking.record import (
    Kept,
    Shrunk,
    count,
    cut,
    lost,
    named_tensors,
)
from sparsify_fx.shrinking.rewritten import (
    of_programs,
    plan_totals,
    refuse_wrapped,
    renew_plans,
    store_in_full,
)
from sparsify_fx.shrinking.search import Search
from sparsify_fx.shrinking.trial import Trial

_LOG = logging.getLogger(__name__)


def shrink(
    model: nn.Module,
    example_inputs: Any,
    optimizer: Optimizer | Iterable[Optimizer] | None = (),
    scheduler: Scheduler | None = None,
) -> Shrunk:
    """Cut channels that nothing reads out of `model`, in place; its classes stay, and its outputs in eval mode.

    A channel goes when every layer that reads it has zeros there, or reads it for channels that go themselves, together
    with all that is coupled with it (`coupled_groups`): rows of the layers that make it, columns of those that read it,
    entries of norms, whole heads of attention. The cut is tried on a copy first, in double precision where the model
    runs in it; what the model's code does not survive stays, with a note.

    A model with weight programs stays one: factors, masks and state are cut alike, zeros that are scattered over what
    is left stay masked, and programs in living storage are in full storage afterwards.

    Args:
        model: a plain model, or one that `apply` has rewritten.
        example_inputs: a tensor, a tuple of arguments, or a dict of them by name.
        optimizer: one or several that train it; their state is cut alike.
        scheduler: the Scheduler that trains it, which goes on: between two cycles, for instance. The numbers of weights
            that it keeps stay as planned.

    Raises SchedulerError for a scheduler whose rewind brings back the state of the optimizer, and for one that is not
    sparsify_fx's; LayerError for inputs that the model does not take, for a model that cannot be copied, for weights
    without values, for a model that DistributedDataParallel or fully_shard holds, for what is no optimizer, and for
    state of an optimizer without a value for each entry of its parameter. After an error nothing has changed.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> _ = net[2].weight.data[:, 3:].zero_()
    >>> shrink(net, torch.ones(1, 4)).parameters, net[0]
    ((58, 23), Linear(in_features=4, out_features=3, bias=True))
    """
    check_whole(model)
    refuse_wrapped(model)
    optimizers = _optimizers(optimizer)
    if scheduler is not None and not isinstance(scheduler, Scheduler):
        raise SchedulerError(
            f"scheduler= is a {type(scheduler).__name__}; expected the sparsify_fx.Scheduler that trains the model"
        )
    # In inference mode the smaller weights could not be trained.
    with torch.inference_mode(False):
        return _shrunk(model, example_inputs, optimizers, scheduler)


def _optimizers(given: Any) -> list[Optimizer]:
    """One or several optimizers, or None, as a list."""
    if is_optimizer(given):
        return [given]
    several = given is not None and isinstance(given, Iterable)
    found = list(given) if several else [] if given is None else [given]
    for each in found:
        if not is_optimizer(each):
            raise LayerError(
                f"optimizer= holds a {type(each).__name__}; expected an optimizer that trains the model, or several"
            )
    return found


def _shrunk(
    model: nn.Module,
    example_inputs: Any,
    optimizers: list[Optimizer],
    scheduler: Scheduler | None,
) -> Shrunk:
    plain = plain_copy(model) if programs(model) else model
    coupling = coupled_groups(plain, example_inputs)
    before = count(plain)
    if not coupling.traced:
        return Shrunk({}, {}, (), (coupling.note,), (before, before))

    # 1. What may go, tried on copies, so that nothing has changed when all of it fails.
    search = Search(plain, coupling, Trial(plain, example_inputs))
    kept, attributes = search.cuts(search.largest())
    attributes = search.needed(kept, attributes)
    shapes = {n: tuple(t.shape) for n, t in named_tensors(plain).items() if n in kept}
    notes = tuple(filter(None, (*search.notes, coupling.note, _unknown(coupling, kept))))  # fmt: skip
    for note in notes:
        _LOG.warning("%s: %s", type(model).__name__, note)

    # 2. The same cut of the model itself. Nothing fails from the check of the optimizers on.
    every = kept | of_programs(model, kept)
    check_states(model, every, optimizers)
    if scheduler is not None:
        check_follows(scheduler)
    after = before - lost(plain, kept)
    totals = plan_totals(model)
    store_in_full(model, optimizers)
    cut_states(model, every, optimizers)
    cut_model(model, every, attributes)
    renew_plans(model, kept, totals)
    if scheduler is not None:
        follow(scheduler, lambda name, value: cut(value, every.get(name, {})))
    return Shrunk(shapes, kept, tuple(attributes), notes, (before, after))


def _unknown(coupling: Coupling, kept: Kept) -> str:
    """What kept all channels, where nothing was cut and operators were not understood; else empty."""
    if kept or not coupling.unknown:
        return ""
    names = ", ".join(coupling.unknown)
    return (
        f"nothing was cut: channels that reach {names} stay, since it is not understood there; weights that are "
        "computed (torch.nn.utils.prune, weight_norm) are understood once they are plain parameters again"
    )
