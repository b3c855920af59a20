"""Which programs keep the living entries alone, and what happens when an optimizer comes that needs whole matrices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from sparsify_fx.errors import LayerError, MethodError, SchedulerError, unknown
from sparsify_fx.living.known import known_programs, on_new_programs, remember
from sparsify_fx.living.wrapping import data_parallel_holds
from sparsify_fx.optimizer_states.elementwise import elementwise
from sparsify_fx.optimizer_states.holders import holders, parameters_of
from sparsify_fx.optimizer_states.remembered import Remembered
from sparsify_fx.optimizer_states.storage import fit_state
from sparsify_fx.parameterizations import Parameterization
from sparsify_fx.passes.store import StoreFull, StoreLiving
from sparsify_fx.programs.owners import Subset
from sparsify_fx.programs.program import WeightProgram
from sparsify_fx.schedules import Budget, Schedule
from sparsify_fx.schedules.base import MOST_EPOCHS

STORAGES = ("auto", "full", "living")


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
        shared = how.shared(torch.zeros(2, 2))
        several = [part for part, tensor in shared.items() if tensor.dim() > 0]
        if not several and not masks[name].is_meta:
            found.append(name)
        elif storage == "living" and several:
            raise MethodError(
                f"{name}: storage='living' needs a parameterization that makes each entry by itself, and {how} has "
                f"{', '.join(several)} for several of them; use storage='auto', or one threshold for a layer"
            )
    return tuple(found)


def masks_stay(schedule: Schedule, budget: Budget) -> bool:
    """Whether a schedule leaves the masks of the start alone, however long the training will be.

    >>> from sparsify_fx.schedules import AtInit, Cubic
    >>> masks_stay(AtInit(), Budget(100, 0.5)), masks_stay(Cubic(), Budget(100, 0.5))
    (True, False)
    """
    epochs = 1
    # `apply` does not know the length, and one that changes masks every epoch has no update in a training of one.
    while epochs <= MOST_EPOCHS:
        try:
            if schedule.updates(replace(budget, epochs=epochs)):
                return False
        # More updates than a training may have are updates.
        except MethodError:
            return False
        epochs *= 10
    return True


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
    if names:
        StoreLiving()(Subset({name: programs[name] for name in names}))


# Why a weight that "auto" would keep living is in full storage.
_REASONS: WeakKeyDictionary[WeightProgram, str] = WeakKeyDictionary()
# Optimizers that have been looked at since there is the newest program, and those whose loading is followed.
_SEEN: Remembered[bool] = Remembered()
_FOLLOWED: Remembered[bool] = Remembered()
_watching = False


def _watch() -> None:
    """Have every optimizer of torch looked at before its next step, now that there is a new program."""
    global _watching
    _SEEN.forget()
    if not _watching:
        register_optimizer_step_pre_hook(_before_step)
        _watching = True


on_new_programs(_watch)


def _before_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    if torch.compiler.is_compiling() or _SEEN.get(optimizer):
        return
    fit(optimizer)


def fit_all(optimizers: Sequence[Any], programs: Iterable[WeightProgram]) -> None:
    """`fit` each optimizer now, for the Scheduler: those without hooks are looked at nowhere else."""
    # Programs in full storage too: their optimizer may load the state of a run in the other.
    for program in programs:
        remember(program)
    for optimizer in optimizers:
        fit(optimizer)


def fit(optimizer: Any) -> None:
    """Bring weights and optimizer together: whole weights for one that needs them, and state in their storage.

    Raises SchedulerError where `apply` was told storage="living", or DistributedDataParallel holds the vectors.
    """
    fit_storage(optimizer, known_programs())
    for program in known_programs():
        fit_state([optimizer], program)
    _SEEN.put(optimizer, True)
    # What is loaded later is looked at again.
    for holder in holders(optimizer):
        # Wrappers may be of torch's class and never have called its constructor, which makes the table of hooks.
        hooks = getattr(holder, "_optimizer_load_state_dict_post_hooks", None)
        if hooks is not None and not _FOLLOWED.get(holder):
            holder.register_load_state_dict_post_hook(_after_load)
            _FOLLOWED.put(holder, True)


def _after_load(optimizer: Optimizer) -> None:
    _SEEN.forget()


def fit_storage(optimizer: Any, programs: Sequence[WeightProgram]) -> None:
    """Store the weights in full that this optimizer could not train entry by entry; all of them, or an error."""
    known: set[int] = set()
    for each in holders(optimizer):
        known.update(map(id, parameters_of(each)))
    odd = []
    for program in programs:
        factors = [f for f in program.factor_tensors().values() if id(f) in known]
        if program.places() is None or all(
            elementwise([optimizer], factor) for factor in factors
        ):
            continue
        _check_may_be_full(type(optimizer).__name__, program)
        odd.append(program)
    for program in odd:
        StoreFull()(program)
        _REASONS[program] = f"{type(optimizer).__name__} needs whole weights"


def _check_may_be_full(optimizer: str, program: WeightProgram) -> None:
    why = (
        f"{optimizer} does not treat each entry by itself, so it cannot train vectors of living "
        "entries"
    )
    if getattr(program.plan, "storage", "auto") == "living":
        raise SchedulerError(
            f'{why}; call sparsify_fx.apply(..., storage="auto"), which keeps whole weights for it'
        )
    if data_parallel_holds(program.parameters()):
        raise SchedulerError(
            f"{why}, and DistributedDataParallel has wrapped them, so that they cannot become whole weights any more; "
            'call sparsify_fx.apply(..., storage="full") before you wrap the model'
        )


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
