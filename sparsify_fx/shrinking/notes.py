"""What a user should know of a cut that no error tells."""

from __future__ import annotations

from collections.abc import Container, Iterator

from torch import nn
from torch.nn.modules.conv import _ConvTransposeNd

from sparsify_fx.coupling.groups import Coupling
from sparsify_fx.programs.owners import programs
from sparsify_fx.schedules.alternating import Alternating
from sparsify_fx.schedules.regrow import RegrowEvery
from sparsify_fx.shrinking.record import Kept, named_tensors
from sparsify_fx.shrinking.search import Search

_MOVING = (RegrowEvery, Alternating)


def notes_on(
    model: nn.Module, plain: nn.Module, search: Search, kept: Kept
) -> Iterator[str]:
    """What to say of this cut of a model.

    Args:
        model: as it is, maybe with weight programs.
        plain: the same without them.
    """
    if search.coupling.note:
        yield search.coupling.note
    if not kept:
        yield from _nothing(search)
        return
    yield from _zero(search, kept)
    yield from _unreached(plain, search.coupling, kept)
    yield from _untrained(search)
    yield from _schedules(model, kept)


def _nothing(search: Search) -> Iterator[str]:
    """What kept all channels, where operators were not understood."""
    if search.notes or not search.coupling.unknown:
        return
    names = ", ".join(search.coupling.unknown)
    yield (
        f"nothing was cut: channels that reach {names} stay, since it is not understood there; weights that are "
        "computed (torch.nn.utils.prune, weight_norm) are understood once they are plain parameters again"
    )


def _zero(search: Search, kept: Kept) -> Iterator[str]:
    """Weights of layers that are zero everywhere, so that what they alone read was cut."""
    zero = [
        name
        for name in sorted(search.coupling.mixing())
        if name in kept and not search.weights[name].any()
    ]
    if zero:
        yield (
            f"{_first(zero)} is zero everywhere, and what it alone reads was cut; a layer that only starts with zeros "
            "should have other values first"
        )


def _unreached(plain: nn.Module, coupling: Coupling, kept: Kept) -> Iterator[str]:
    """Layers that the example does not run, and that have a width that was cut elsewhere."""
    tensors = named_tensors(plain)
    widths = set[int]()
    for name, axes in kept.items():
        widths |= {tensors[name].shape[axis] for axis in axes}
    names = [n for n in coupling.unreached if widths & set(tensors[n].shape)]
    if names:
        yield (
            f"the example inputs do not reach {_first(names)}: where these layers read or make channels that were cut, "
            "they no longer fit; give an example that reaches them, or shrink no further than what all inputs use"
        )


def _untrained(search: Search) -> Iterator[str]:
    if problem := search.trial.training_problem:
        yield (
            f"training mode cannot be run at the example inputs ({problem}), so that what only training computes was "
            "not compared; give what it needs in example_inputs: targets, or more samples"
        )


def _schedules(model: nn.Module, kept: Kept) -> Iterator[str]:
    """Of rewritten models: what their schedules and patterns no longer do."""
    planned = {n: p.plan for n, p in programs(model).items() if p.plan is not None}
    moving = {p.method for p in planned.values() if isinstance(p.axes.schedule, _MOVING)}  # fmt: skip
    if moving:
        yield (
            f"{_first(sorted(moving))} brings dead channels and weights back, and those that were cut out cannot come "
            "back: shrink after the training, unless that is meant"
        )
    broken = [
        name
        for name, plan in planned.items()
        if _breaks(plan.axes.allocation, model, name, kept.get(name, {}))
    ]
    if broken:
        yield (
            f"{_first(broken)} lost channels from within a pattern of n:m or of blocks, which holds no longer: shrink "
            "first, and prune to the pattern then"
        )


def _breaks(allocation: object, model: nn.Module, name: str, axes: Container[int]) -> bool:  # fmt: skip
    """Whether the pattern of a weight runs along an axis that was cut."""
    owner = model.get_submodule(name.rpartition(".")[0])
    places = (1, 0) if isinstance(owner, _ConvTransposeNd) else (0, 1)
    return any(places[axis] in axes for axis in getattr(allocation, "pattern_axes", ()))


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
