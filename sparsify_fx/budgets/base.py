"""What a budget is: the number of weights that meets a target which is no number of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import nn

from sparsify_fx.allocations import Allocation
from sparsify_fx.errors import MethodError, SparsityError
from sparsify_fx.masks import kept_count
from sparsify_fx.plan import Inputs
from sparsify_fx.programs.selection import Layer
from sparsify_fx.recipe import ResolvedAxes
from sparsify_fx.registry import Registry
from sparsify_fx.tables.shown import Shown

DEFAULT_SPARSITY = 0.9
"""Of `apply`, where nothing is said."""


@dataclass(frozen=True)
class Request:
    """What `apply` was asked for, as a budget sees it.

    Attributes:
        method: its name, for messages.
        layers: the prunable weights by name.
        sparsity: as given to `apply`.
        example_inputs: arguments of the model's forward, or None.
    """

    model: nn.Module
    method: str
    layers: Mapping[str, Layer]
    axes: ResolvedAxes
    sparsity: float
    seed: int
    inputs: Inputs
    example_inputs: Any = None

    @property
    def total(self) -> int:
        """How many prunable weights there are."""
        return sum(layer.weight.numel() for layer in self.layers.values())


@dataclass(frozen=True, repr=False)
class Met(Shown):
    """How a budget was met.

    Attributes:
        budget: "parameters", "macs" or "latency".
        unit: of the numbers: "weights", "multiply-adds" or "ms".
        asked: what may be left.
        expected: what is left with the weights that are kept; for "latency" as measured in `apply`.
        dense: what the dense model takes.
        kept, total: numbers of weights.
        allocation: how the weights are divided, as `apply` takes it.
    """

    budget: str
    unit: str
    asked: float
    expected: float
    dense: float
    kept: int
    total: int
    allocation: Allocation

    @property
    def sparsity(self) -> float:
        """The fraction of zeros that meets the budget: with `allocation` it gives the same division again."""
        return 1 - self.kept / self.total

    def headline(self) -> str:
        """The sentence, for `repr`."""
        return f"{self.budget}: {self.sentence()}"

    def sentence(self) -> str:
        """What was asked for and what is left, in words."""
        told = f"at most {number(self.asked)} of {number(self.dense)} {self.unit} were asked for"
        return (
            f"{told}; {self.kept:,} of {self.total:,} weights (sparsity {self.sparsity:.4g}) leave "
            f"{number(self.expected)}"
        )

    def to_dict(self) -> dict[str, Any]:
        """All numbers, JSON-ready."""
        plain = {n: v for n, v in vars(self).items() if n != "allocation"}
        return {**plain, "sparsity": self.sparsity}


@runtime_checkable
class Budget(Protocol):
    """A target, in place of the fraction of weights that `sparsity` is."""

    def meet(self, request: Request) -> Met:
        """How many weights to keep, and how to divide them.

        Raises SparsityError for a target that cannot be reached, with the least that can; MethodError where it has no
        meaning.
        """


BUDGETS: Registry[type[Any]] = Registry("budget")


def check_left(name: str, left: object) -> None:
    """Raise SparsityError unless `left` is None, a whole number >= 1, or a fraction in (0, 1]."""
    whole = isinstance(left, int) and not isinstance(left, bool) and left >= 1
    share = isinstance(left, float) and 0 < left <= 1
    if left is not None and not whole and not share:
        raise SparsityError(
            f"{name}: left={left!r} must be a number (1_000_000) or a fraction of the dense model's in (0, 1] (0.2)"
        )


def share_left(name: str, left: float | None, request: Request) -> float | None:
    """The fraction that may stay, by `left` or else by `sparsity`; None where `left` is a number.

    Raises MethodError when both are given.
    """
    if left is None:
        kept_count(request.total, request.sparsity)
        return 1 - request.sparsity
    check_unused(name, "left", request)
    return left if isinstance(left, float) else None


def check_unused(name: str, option: str, request: Request) -> None:
    """Raise MethodError when `sparsity` was given beside a budget that has a target of its own."""
    if request.sparsity != DEFAULT_SPARSITY:
        raise MethodError(
            f"sparsity={request.sparsity!r} and the budget {name}({option}=...) are two targets; leave one out"
        )


def unreachable(
    name: str, asked: str, least: str, dense: str, how: str
) -> SparsityError:
    """The error for a target below what can be reached."""
    return SparsityError(
        f"budget {name}: {asked} cannot be reached, the least is {least} of {dense} ({how}); ask for at least that, "
        "prune more layers (include=, exclude=), or choose another allocation"
    )


def number(value: float) -> str:
    """A number as messages show it: whole ones in full, others with four digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
