"""Parameterizations per layer: what each weight is made of, by the name of its layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparsify_fx.errors import MethodError
from sparsify_fx.parameterizations.base import KnowsDensity, Parameterization


@dataclass(frozen=True)
class ByLayer:
    """A parameterization for each layer; among the patterns that match a weight the one with the fewest matches counts.

    So the order does not matter: {"fc": Product(beta=2.0), "*": Dense()} is a product in `fc` and dense elsewhere. See
    `sparsify_fx.passes.prepare.assigned` for what is refused once the model is known.

    Attributes:
        patterns: by name or pattern of layers or weights, as `include=` takes them; pairs do as well.

    Raises MethodError for patterns that are no words, for the pattern "name", which in a recipe is that of one
    parameterization for all, and for values that are no parameterizations.

    >>> from sparsify_fx.parameterizations import Dense, Product
    >>> ByLayer({"fc": Product(beta=2.0), "*": Dense()}).patterns
    (('*', Dense()), ('fc', Product(beta=2.0)))
    """

    patterns: Mapping[str, Parameterization] | tuple[tuple[str, Parameterization], ...]

    def __post_init__(self) -> None:
        given: dict[Any, Any] = dict(self.patterns)
        for pattern, how in given.items():
            if not isinstance(pattern, str) or not pattern:
                raise MethodError(
                    f"parameterization: {pattern!r} is no name or pattern of layers such as 'fc' or '*'"
                )
            if pattern == "name":
                raise MethodError(
                    "parameterization: write 'name.weight' for a layer that is called 'name'"
                )
            if isinstance(how, type) or not isinstance(how, Parameterization):
                raise MethodError(
                    f"parameterization: {how!r} of {pattern!r} is no parameterization, such as 'dense'"
                )
        if not given:
            raise MethodError(
                "parameterization: no layer is named; give one for all, such as {'*': 'dense'}"
            )
        # Sorted pairs: hashable, as frozen dataclasses are, and equal whatever the order in which they were written.
        object.__setattr__(self, "patterns", tuple(sorted(given.items())))

    @property
    def by_pattern(self) -> dict[str, Parameterization]:
        """The parameterizations by pattern."""
        return dict(self.patterns)

    @property
    def without_decay(self) -> tuple[str, ...]:
        """The groups on which one of them lets no weight decay fall; `parameter_groups` decides for each layer."""
        groups: set[str] = set()
        for how in self.by_pattern.values():
            groups.update(getattr(how, "without_decay", ()))
        return tuple(sorted(groups))

    def __str__(self) -> str:
        return ", ".join(
            f"{pattern}: {how}" for pattern, how in self.by_pattern.items()
        )


def fitted(
    how: Parameterization | ByLayer, sparsity: float
) -> Parameterization | ByLayer:
    """The parameterization, told how many weights stay where it asks for that.

    >>> from sparsify_fx.parameterizations import TopScores
    >>> fitted(TopScores(), 0.75)
    TopScores(density=0.25)
    """
    if isinstance(how, ByLayer):
        return ByLayer(
            {
                pattern: each.with_density(1 - sparsity)
                if isinstance(each, KnowsDensity)
                else each
                for pattern, each in how.by_pattern.items()
            }
        )
    return how.with_density(1 - sparsity) if isinstance(how, KnowsDensity) else how
