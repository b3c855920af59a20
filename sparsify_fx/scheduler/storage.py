"""Which programs keep the living entries alone, and what happens when an optimizer comes that needs whole matrices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sparsify_fx.errors import (
    LayerError,
    MethodError,
    SchedulerError,
    SparsifyError,
    unknown,
)
from sparsify_fx.living.copies import copies_of
from sparsify_fx.living.followers import (
    before_first_steps,
    followers,
    known_programs,
    look_at,
)
from sparsify_fx.living.wrapping import data_parallel_holds
from sparsify_fx.optimizer_states.elementwise import elementwise
from sparsify_fx.optimizer_states.holders import holders, parameters_of
from sparsify_fx.optimizer_states.refit import fit_states, lies_otherwise
from sparsify_fx.parameterizations import Parameterization
from sparsify_fx.passes.store import StoreFull, StoreLiving
from sparsify_fx.programs.owners import Subset
from sparsify_fx.programs.program import WeightProgram
from sparsify_fx.schedules import Budget, Schedule
from sparsify_fx.sharding import sharded

STORAGES = ("auto", "full", "living")
# Why a weight that "auto" would keep living is in full storage.
_REASONS: WeakKeyDictionary[WeightProgram, str] = WeakKeyDictionary()


def storable(
    storage: str,
    masks: Mapping[str, Tensor] | None,
    chosen: Mapping[str, Parameterization],
    fixed: bool,
) -> tuple[str, ...]:
    """The names of the weights whose living entries alone will be kept.

    "auto": those that have a mask from the start, which stays, and are made entry by entry. Without a mask there is
    nothing to leave out; a threshold for each channel is shared by some entries and not by others; and where masks
    change, a copy that follows the training by parameters (an average) would mix entries that have changed places.

    Args:
        fixed: whether the masks stay as they are for the whole training.

    Raises UnknownNameError for another storage, and MethodError where "living" is asked for what cannot be.
    """
    if storage not in STORAGES:
        raise MethodError(unknown("storage", storage, STORAGES))
    if storage == "full":
        return ()
    if storage == "auto" and not fixed:
        return ()
    if masks is None:
        if storage == "living":
            raise MethodError(
                "storage='living' keeps the entries that a mask lets live, and this method has none while it trains; "
                "use storage='auto'"
            )
        return ()
    found = []
    for name, how in chosen.items():
        # Two axes tell a tensor for each row from one for the whole weight.
        shared = how.shared(torch.zeros(2, 2, device="cpu"))
        several = [part for part, tensor in shared.items() if tensor.dim() > 0]
        together = getattr(how, "together", False)
        if not several and not together and not masks[name].is_meta:
            found.append(name)
        elif storage == "living" and together:
            raise MethodError(
                f"{name}: storage='living' needs a parameterization that makes each entry by itself, and in {how} "
                "those of a layer compete; use storage='auto'"
            )
        elif storage == "living" and several:
            raise MethodError(
                f"{name}: storage='living' needs a parameterization that makes each entry by itself, and {how} has "
                f"{', '.join(several)} for several of them; use storage='auto', or one threshold for a layer"
            )
    return tuple(found)


def masks_change(schedule: Schedule, budget: Budget) -> bool:
    """Whether masks change after `apply`, in a training of whatever length: there `apply` does not know it yet.

    >>> from sparsify_fx.schedules import AtInit, RegrowEvery
    >>> masks_change(RegrowEvery(every=20.0), Budget(1000, 0.9)), masks_change(AtInit(), Budget(1000, 0.9))
    (True, False)
    """
    for epochs in (1, 1000):
        try:
            if schedule.updates(replace(budget, epochs=epochs)):
                return True
        except SparsifyError:
            return True  # too many of them for so long a training
    return False


def unwrapped(
    names: tuple[str, ...], weights: Mapping[str, Tensor], storage: str
) -> tuple[str, ...]:
    """These names, or none where DistributedDataParallel has the weights in its buckets already, as they are.

    Raises LayerError where "living" is asked for.
    """
    if not names or not data_parallel_holds(weights.values()):
        return names
    if storage == "living":
        raise LayerError(
            "the model is wrapped in DistributedDataParallel, whose buckets have the sizes of whole weights; with "
            "storage='living' call sparsify_fx.apply on the plain model first, then wrap it"
        )
    return ()


def store(programs: Mapping[str, WeightProgram], names: Sequence[str]) -> None:
    """Bring these programs into living storage."""
    if not names:
        return
    StoreLiving()(Subset({name: programs[name] for name in names}))


def fit_storage(optimizer: Any, programs: Sequence[WeightProgram]) -> None:
    """Store the weights in full that this optimizer could not train entry by entry; bring its state into their storage.

    Raises SchedulerError where `apply` was told storage="living", and for a state that does not fit the masks.
    """
    choose_storage(optimizer, programs)
    for program, factors in _trained(optimizer, programs):
        # Asked only where it matters, since it tries the optimizer.
        if lies_otherwise([optimizer], program) and _by_entry(optimizer, factors):
            fit_states([optimizer], program)


def choose_storage(optimizer: Any, programs: Sequence[WeightProgram]) -> None:
    """Store the weights in full that this optimizer could not train entry by entry; its state stays as it is."""
    for program, factors in _trained(optimizer, programs):
        if program.places() is not None and not _by_entry(optimizer, factors):
            _store_in_full(optimizer, program)


def _by_entry(optimizer: Any, factors: Sequence[nn.Parameter]) -> bool:
    return all(elementwise([optimizer], factor) for factor in factors)


def _trained(
    optimizer: Any, programs: Sequence[WeightProgram]
) -> Iterator[tuple[WeightProgram, list[nn.Parameter]]]:
    """The programs that an optimizer trains, with the factors of each that it has."""
    known: set[int] = set()
    for holder in holders(optimizer):
        known.update(map(id, parameters_of(holder)))
    for program in programs:
        factors = [f for f in program.factor_tensors().values() if id(f) in known]
        if factors:
            yield program, factors


def _store_in_full(optimizer: Any, program: WeightProgram) -> None:
    name = type(optimizer).__name__
    _check_may_be_full(name, program)
    # An average that was made before this first step goes by parameters. A copy that trains by itself has its own way.
    trained: set[int] = set()
    for optimizer in followers():
        trained.update(map(id, parameters_of(optimizer)))
    idle = [
        each
        for each in copies_of(program)
        if not any(id(parameter) in trained for parameter in each.parameters())
    ]
    for each in (program, *idle):
        StoreFull()(each)
        _REASONS[each] = f"{name} needs whole weights"


def _check_may_be_full(optimizer: str, program: WeightProgram) -> None:
    several = len(list(program.parameters())) > 1
    why = (
        f"{optimizer} does not treat each entry by itself, so it cannot train vectors of living "
        "entries"
    )
    if getattr(program.plan, "storage", "auto") == "living":
        raise SchedulerError(
            f'{why}; call sparsify_fx.apply(..., storage="auto"), which keeps whole weights for it'
        )
    # A hook that steps within a backward pass comes when other gradients of the old lengths are still on their way.
    if several and torch._C._current_graph_task_id() != -1:
        raise SchedulerError(
            f"{why}, and it makes its first step inside a backward pass, where they cannot become whole weights; call "
            'sparsify_fx.apply(..., storage="full")'
        )
    if any(map(sharded, program.parameters())):
        raise SchedulerError(
            f"{why}, and fully_shard has spread them over the processes, so that they cannot become whole weights any "
            'more; call sparsify_fx.apply(..., storage="full") before you shard the model'
        )
    if data_parallel_holds(program.parameters()):
        raise SchedulerError(
            f"{why}, and DistributedDataParallel has wrapped them, so that they cannot become whole weights any more; "
            'call sparsify_fx.apply(..., storage="full") before you wrap the model'
        )


def fit_all(optimizers: Sequence[Any], loaded: bool = False) -> None:
    """Look at each optimizer now, for the Scheduler: those without hooks are looked at nowhere else.

    Args:
        loaded: whether the model is the one that their state belongs to. When a Scheduler is built nobody knows: an
            optimizer may have been loaded, and the model be loaded next.
    """
    for optimizer in optimizers:
        if loaded:
            look_at(optimizer)
        else:
            choose_storage(optimizer, known_programs())


def storage_told(programs: Sequence[WeightProgram]) -> str:
    """Where the entries of the weights lie, and why, in words; empty where all are whole and nothing is to be said."""
    living = [program for program in programs if program.places() is not None]
    reasons = dict.fromkeys(_REASONS[p] for p in programs if p in _REASONS)
    told = []
    if living:
        kept = sum(
            len(places_)
            for places_ in map(WeightProgram.places, living)
            if places_ is not None
        )
        total = sum(program.full_shape().numel() for program in living)
        told.append(f"living entries alone, {kept} of {total} in {len(living)} weights")
    if reasons:
        number = len([program for program in programs if program in _REASONS])
        told.append(f"full in {number} weights: {', '.join(reasons)}")
    return "; ".join(told)


before_first_steps(fit_storage)
