"""What a parameterization is: how a weight θ is made of trainable tensors, and how θ is split into them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from sparsify_fx.errors import MethodError
from sparsify_fx.registry import Registry

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Moment:
    """When `refresh` is called.

    Attributes:
        progress: share of the way through the current run, up to its last mask update if it has one; at most 1.
        seed: of the random numbers of one weight at one optimizer step.
    """

    progress: float
    seed: int


@runtime_checkable
class Parameterization(Protocol):
    """θ = value(tensors). The tensors are of three kinds:

    - `factors`: trained, with the shape of the weight; `split(θ)` gives them back.
    - shared: trained, of another shape (a threshold of a layer); writing θ leaves them alone.
    - state: not trained (a temperature, noise), changed in place, so that nothing recompiles. A state called `noisy` is
      1 in training mode and 0 in evaluation; criteria and Merge see the value with 0.

    Attributes:
        factors: names of the factors.
        transient: names of the state that no checkpoint holds, since `refresh` makes it anew.
        gates (optional): those of the factors that decide which weights are zero.
        without_decay (optional): groups of `sparsify_fx.parameter_groups` on which the weight decay of the optimizer
            does not fall by default.
        together (optional): True where the entries of a weight are not made each by itself; it is stored in full.
    """

    factors: ClassVar[tuple[str, ...]]
    transient: ClassVar[tuple[str, ...]]

    def value(self, tensors: Mapping[str, Any]) -> Any:
        """θ from all its tensors; called with tensors, and with `torch.fx` proxies to record the program.

        Every operation needs a trained operand: pickling would freeze one between states alone as a constant.
        """

    def split(self, theta: Tensor, others: Tensors | None = None) -> dict[str, Tensor]:
        """Factors whose value is θ, in θ's dtype and on its device, given the shared tensors and the state.

        Without `others` these are the initial ones.
        """

    def shared(self, theta: Tensor) -> dict[str, Tensor]:
        """Initial values of the shared tensors for a weight like θ."""

    def state(self, theta: Tensor) -> dict[str, Tensor]:
        """Initial values of the state for a weight like θ."""

    def error_bound(self, theta: Tensor) -> Tensor:
        """The largest abs(value(split(θ)) − θ) for every entry, with initial shared tensors and state."""

    def settle(self, tensors: Tensors) -> dict[str, Tensor]:
        """New factors and shared tensors once the masks are final: gates are either open or closed from then on.

        What is not named stays; an empty result means that there is nothing to settle.
        """

    def refresh(self, state: Tensors, moment: Moment) -> None:
        """Change the state in place before an optimizer step."""


@runtime_checkable
class Reopening(Protocol):
    """A parameterization with gates or thresholds, which can open an entry that is closed."""

    def nearness(self, tensors: Tensors) -> Tensor:
        """How near each entry is to open (shape of the weight, comparable between layers); −inf where it stays zero."""

    def opened(self, tensors: Tensors, where: Tensor) -> dict[str, Tensor]:
        """Factors with which `settle` leaves the entries `where` (bool) open and other than zero."""


@runtime_checkable
class KnowsDensity(Protocol):
    """A parameterization that has to know how many weights stay; `apply` tells it."""

    def with_density(self, density: float) -> Parameterization:
        """The same for this share of the weights, in (0, 1]."""


@runtime_checkable
class Projecting(Protocol):
    """A parameterization whose factors of all weights together have to be within a set, after every optimizer step."""

    def projected(
        self, parts: Sequence[Tensors], progress: float
    ) -> list[dict[str, Tensor]]:
        """Factors of each weight that change; an empty list where all are within, as they are after a projection.

        Args:
            parts: the tensors of each weight that is made so.
            progress: as in `Moment`.
        """


@runtime_checkable
class Balancing(Protocol):
    """A parameterization in which many factors make the same θ; those of `split(θ)` are the balanced ones.

    `Rescale` brings entries that are off their balance back to it.
    """

    def unbalanced(self, tensors: Tensors) -> Tensor:
        """Where (bool, shape of the weight) factors differ from the split of their θ by more than its rounding.

        False everywhere for the factors that `split` gives.
        """


# Classes, of which every use makes an object of its own: options belong to the object.
PARAMETERIZATIONS: Registry[type[Any]] = Registry("parameterization")


@dataclass(frozen=True)
class Plain:
    """The common case: nothing but factors of the weight's shape, and value(split(θ)) = θ exactly."""

    transient: ClassVar[tuple[str, ...]] = ()

    def shared(self, theta: Tensor) -> dict[str, Tensor]:
        """No tensors that several entries share."""
        return {}

    def state(self, theta: Tensor) -> dict[str, Tensor]:
        """No tensors that are not trained."""
        return {}

    def error_bound(self, theta: Tensor) -> Tensor:
        """Zero everywhere: value(split(θ)) is θ to the bit."""
        return torch.zeros_like(theta)

    def settle(self, tensors: Tensors) -> dict[str, Tensor]:
        """No new tensors: without gates there is nothing to settle."""
        return {}

    def refresh(self, state: Tensors, moment: Moment) -> None:
        """Leave everything: there is no state to change."""


def check_scale(name: str, scale: float) -> None:
    """MethodError unless `scale` is a finite number > 0."""
    if not (math.isfinite(scale) and scale > 0):
        raise MethodError(
            f"{name}: scale={scale!r} must be a finite number > 0, for instance 10.0"
        )
