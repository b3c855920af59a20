"""Which programs keep the living entries alone, and what happens when an optimizer comes that needs whole matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sparsify_fx.errors import MethodError, SchedulerError, SparsifyError, unknown
from sparsify_fx.living.followers import before_first_steps
from sparsify_fx.optimizer_states.elementwise import elementwise
from sparsify_fx.optimizer_states.holders import holders, parameters_of
from sparsify_fx.optimizer_states.refit import fit_states, lies_otherwise
from sparsify_fx.parameterizations import Parameterization
from sparsify_fx.passes.store import StoreFull, StoreLiving
from sparsify_fx.programs.owners import Subset
from sparsify_fx.programs.program import WeightProgram
from sparsify_fx.schedules import Budget, Schedule

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


def store(programs: Mapping[str, WeightProgram], names: Sequence[str]) -> None:
    """Bring these programs into living storage."""
    if not names:
        return
    StoreLiving()(Subset({name: programs[name] for name in names}))


def fit_storage(optimizer: Any, programs: Sequence[WeightProgram]) -> None:
    """Store the weights in full that this optimizer could not train entry by entry; bring its state into their storage.

    Raises SchedulerError where `apply` was told storage="living", and for a state that does not fit the masks.
    """
    known = {
        id(parameter)
        for each in holders(optimizer)
        for parameter in parameters_of(each)
    }
    for program in programs:
        factors = [f for f in program.factor_tensors().values() if id(f) in known]
        if not factors:
            continue
        # Asked only where it matters, since it tries the optimizer.
        odd = lies_otherwise([optimizer], program)
        if not odd and program.places() is None:
            continue
        alone = all(elementwise([optimizer], factor) for factor in factors)
        if alone and odd:
            fit_states([optimizer], program)
        elif not alone and program.places() is not None:
            _store_in_full(optimizer, program)


def _store_in_full(optimizer: Any, program: WeightProgram) -> None:
    if getattr(program.plan, "storage", "auto") == "living":
        raise SchedulerError(
            f"{type(optimizer).__name__} does not treat each entry by itself, so it cannot train vectors of living "
            'entries; call sparsify_fx.apply(..., storage="auto"), which keeps whole weights for it'
        )
    StoreFull()(program)


before_first_steps(fit_storage)
