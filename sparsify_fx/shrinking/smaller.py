"""shrink: cut out of a model what nothing reads."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from sparsify_fx.budgets.plain import check_whole, plain_copy
from sparsify_fx.coupling.groups import coupled_groups
from sparsify_fx.errors import LayerError, SchedulerError
from sparsify_fx.optimizer_states.holders import is_optimizer
from sparsify_fx.programs.owners import programs
from sparsify_fx.scheduler import Scheduler
from sparsify_fx.scheduler.smaller import check_follows, follow
from sparsify_fx.shrinking.cutting import cut_model
from sparsify_fx.shrinking.notes import notes_on
from sparsify_fx.shrinking.optimizer import check_states, check_trained, cut_states
from sparsify_fx.shrinking.record import (
    Shrunk,
    as_before,
    count,
    cut,
    lost,
    named_tensors,
)
from sparsify_fx.shrinking.rewritten import (
    living,
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
    *,
    like: Shrunk | None = None,
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
            that it keeps stay as planned. Its optimizers are cut too.
        like: what another shrink did, which is done again, untried: to an average of the weights, or to a model that is
            built anew and then loads the state of the shrunk one. Of several, one after the other.

    Raises SchedulerError for a scheduler whose rewind brings back the state of the optimizer, and for one that is not
    sparsify_fx's; LayerError for inputs that the model does not take, for a model that cannot be copied, for weights
    without values, for a model that DistributedDataParallel or fully_shard holds, for what is no optimizer or holds
    none of the model's parameters, for state of an optimizer without a value for each entry of its parameter, and for
    a model of other shapes than the one of `like`. After an error nothing has changed.

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
        plain = plain_copy(model) if programs(model) else model
        found = (
            _search(model, plain, example_inputs)
            if like is None
            else as_before(plain, like)
        )
        if found.changed:
            if scheduler is not None:
                optimizers += [o for o in scheduler.optimizers if o not in optimizers]
            check_trained(model, optimizers)
            _cut(model, found, optimizers, scheduler)
        return found


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


def _search(model: nn.Module, plain: nn.Module, example_inputs: Any) -> Shrunk:
    """What may go, tried on copies, so that nothing has changed when all of it fails."""
    coupling = coupled_groups(plain, example_inputs)
    before = count(plain)
    if not coupling.traced:
        return Shrunk({}, {}, (), (coupling.note,), (before, before))
    trial = Trial(plain, example_inputs, coupling.mixing())
    search = Search(plain, coupling, trial, living(model))
    kept, attributes = search.cuts(search.largest())
    attributes = search.needed(kept, attributes)
    shapes = {n: tuple(t.shape) for n, t in named_tensors(plain).items() if n in kept}
    notes = (*search.notes, *notes_on(model, plain, search, kept))
    for note in notes:
        _LOG.warning("%s: %s", type(model).__name__, note)
    parameters = (before, before - lost(plain, kept))
    mixing = _names_of(plain, coupling.mixing(), shapes)
    return Shrunk(shapes, kept, tuple(attributes), notes, parameters, mixing)


def _cut(
    model: nn.Module,
    found: Shrunk,
    optimizers: list[Optimizer],
    scheduler: Scheduler | None,
) -> None:
    """Cut the model itself. Nothing fails from the check of the schedule on."""
    every = found.kept | of_programs(model, found.kept)
    check_states(model, every, optimizers)
    if scheduler is not None:
        check_follows(scheduler)
    totals = plan_totals(model)
    store_in_full(model, optimizers)
    cut_states(model, every, optimizers)
    cut_model(model, every, list(found.attributes))
    renew_plans(model, found.kept, totals)
    if scheduler is not None:
        follow(scheduler, lambda name, value: cut(value, every.get(name, {})))


def _names_of(model: nn.Module, names: Iterable[str], among: Iterable[str]) -> tuple[str, ...]:  # fmt: skip
    """All names, of those given, of these tensors: tied ones have several."""
    tensors = named_tensors(model)
    mine = {id(tensors[name]) for name in names}
    return tuple(name for name in among if id(tensors[name]) in mine)
