"""What a criterion is, what it may look at, and the registry.

A criterion gives a score for every weight; the highest scores stay. It is one function from `PruningContext` to scores,
registered with the inputs that it needs; one with options is a frozen dataclass with `needs` and `scores`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sparsify_fx.allocations import Allocation
from sparsify_fx.errors import MethodError
from sparsify_fx.programs.input_layouts import Layouts
from sparsify_fx.randomness import seed_of
from sparsify_fx.registry import Registry

Scores = dict[str, Tensor]
Masks = Mapping[str, Tensor]
# From the masks that were chosen to the weights that stay under them, whole and in their shapes.
Update = Callable[[Masks], dict[str, Tensor]]
NEEDS = ("model", "batches", "loss_fn")


@dataclass(frozen=True)
class PruningContext:
    """What a criterion may look at.

    Attributes:
        weights: the effective weights by name, detached.
        generator: a CPU generator that depends on apply's seed and the run only.
        kept: the budget of this pruning, over all layers.
        allocation: how the budget will be divided (for criteria that prune in rounds).
        alive: current masks; what is pruned stays pruned. None before the first pruning.
        model: a plain model whose parameters of these names are the effective weights, not to be changed; None unless
            the criterion needs it.
        batches: (inputs, targets) pairs that can be read again and again, or None.
        loss_fn: loss_fn(outputs, targets) -> scalar, or None.
        layouts: where the inputs of each weight lie, for allocations that are patterns; along dimension 1 if not named.

    Under FSDP weights and masks are whole for a criterion, gathered on every process; one that is registered with
    `entrywise=True` gets them sharded, as DTensors.
    """

    # Effective weights, not factors: every criterion works with every parameterization, and θ ⊙ ∂L/∂θ means the same
    # for a product m ⊙ w as for a dense weight.
    weights: Mapping[str, Tensor]
    generator: torch.Generator
    kept: int
    allocation: Allocation
    alive: Masks | None = None
    model: nn.Module | None = None
    batches: Iterable[Any] | None = None
    loss_fn: Callable[[Any, Any], Tensor] | None = None
    layouts: Layouts = field(default_factory=dict)


@runtime_checkable
class Criterion(Protocol):
    """Scores for every weight; `needs` names the inputs: "model", "batches", "loss_fn"."""

    @property
    def needs(self) -> tuple[str, ...]:
        """What the context must hold."""

    def scores(self, context: PruningContext) -> Scores:
        """A score of the weight's shape for each weight; the highest stay."""


@runtime_checkable
class EarlyCheck(Protocol):
    """A criterion that can tell in `apply` whether it will be able to score later."""

    def check(
        self,
        weights: Mapping[str, Tensor],
        budgets: Iterable[int],
        allocation: Allocation,
    ) -> None:
        """Raise an error if not; `budgets`: the weights kept by each pruning of the schedule."""


@runtime_checkable
class FindsSparsity(Protocol):
    """A criterion that takes the sparsity from the weights as they are, in place of the one that is asked for."""

    def found_sparsity(self, weights: Mapping[str, Tensor]) -> float:
        """In (0, 1); SparsityError for weights that have none to take."""


@runtime_checkable
class Updating(Protocol):
    """A criterion that knows how the weights that stay make up for those that go."""

    def scored(self, context: PruningContext) -> tuple[Scores, Update | None]:
        """The scores, and what gives the weights under the masks that come of them; None where they stay."""


@runtime_checkable
class Brief(Protocol):
    """A criterion whose rehearsal can be cheaper than its scores; see `rehearse`."""

    def brief(self) -> tuple[Criterion, int]:
        """A criterion that fails where this one would, and how many samples it needs to see."""


@dataclass(frozen=True)
class FunctionCriterion:
    """A scoring function without options, and what it needs."""

    name: str
    function: Callable[[PruningContext], Scores]
    needs: tuple[str, ...] = ()

    def scores(self, context: PruningContext) -> Scores:
        """The function's scores."""
        return self.function(context)

    @property
    def entrywise(self) -> bool:
        """Whether each score depends on the same entry of the weight alone."""
        return bool(getattr(self.function, "entrywise", False))


CRITERIA: Registry[Any] = Registry("criterion")
Scoring = Callable[[PruningContext], Scores]


def criterion(
    name: str, needs: tuple[str, ...] = (), entrywise: bool = False
) -> Callable[[Scoring], Scoring]:
    """Register a scoring function under `name`.

    Args:
        needs: what the context must hold: "model", "batches", "loss_fn".
        entrywise: each score depends on the same entry of its weight alone, so that a shard can be scored by itself;
            weights are then DTensors where the model is sharded, of which no number may be read (`float(x.sum())` is
            that of the own shard).

    >>> @criterion("first", needs=())
    ... def first(context: PruningContext) -> Scores:
    ...     return {name: -torch.arange(w.numel()).reshape(w.shape).float() for name, w in context.weights.items()}
    """
    # A misspelled need would be found missing only when the criterion scores, perhaps after days of training.
    odd = set(needs) - set(NEEDS)
    if odd:
        raise MethodError(
            f"criterion {name!r} can need {', '.join(NEEDS)}, not {sorted(odd)}"
        )

    def add(function: Scoring) -> Scoring:
        # At the function: recorded runs compare criteria by their fields.
        setattr(function, "entrywise", entrywise)  # noqa: B010
        CRITERIA.add(name, FunctionCriterion(name, function, needs))
        return function

    return add


def find_criterion(name: str) -> Criterion:
    """The criterion of that name, with its default options; UnknownNameError for another name."""
    entry = CRITERIA[name]
    # Criteria with options are registered as classes, those without as the object itself.
    found: Criterion = entry() if isinstance(entry, type) else entry
    return found


def criterion_name(value: Criterion) -> str:
    """The name under which a criterion is known."""
    return (
        value.name
        if isinstance(value, FunctionCriterion)
        else CRITERIA.name_of_kind(value) or type(value).__name__
    )


def check_inputs(
    name: str, needs: Iterable[str], batches: object, loss_fn: object
) -> None:
    """Raise MethodError when something that `name` needs was not given: "snip needs batches= and loss_fn="."""
    # The model is always there: `apply` and the Scheduler hand it over themselves.
    given = {"model": True, "batches": batches, "loss_fn": loss_fn}
    missing = [f"{need}=" for need in needs if given[need] is None]
    if missing:
        raise MethodError(f"{name} needs {' and '.join(missing)}")


def pruning_generator(seed: int, run: int = 0) -> torch.Generator:
    """The generator of a pruning: it depends on seed and run only, so that a resumed training agrees.

    The numbers are hashed: weights drawn after `torch.manual_seed(seed)` would come from the same stream as a mask of
    this seed, and the mask would keep the largest of them.
    """
    return torch.Generator().manual_seed(seed_of(f"pruning {seed} {run}", signed=True))
