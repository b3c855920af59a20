"""Rescale: restore the balance of the factors, m² − w² = β for a product, without changing the weight."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

from sparsify_fx.parameterizations import Balancing, Parameterization, Product
from sparsify_fx.passes.base import ProgramPass
from sparsify_fx.programs.program import WeightProgram
from sparsify_fx.programs.state import recorded


class Rescale(ProgramPass):
    """The factors of θ -> its balanced split: for a product m > 0 and m² − w² = β again; θ is the same within 2 ulp.

    Weight decay and gradient noise shrink β, and with it the freedom of signs. Entries that are balanced already are
    not touched, so a second run changes nothing; a pruned entry stays zero. Works in place: no recompile. Any
    parameterization takes part that says where it is off its balance, by `Balancing.unbalanced`.

    Args:
        beta: the new β > 0, for parameterizations with an option `beta`; None keeps the one that the program has.

    Raises PassError when a program has no balance, or no β of its own where one is given.

    Source: [Gadhikar 2025], Algorithm 1 and Appendix B.
    """

    def __init__(self, beta: float | None = None) -> None:
        self.beta = beta
        if beta is not None:
            # Made only for its check: a β that is no positive number is refused before a model is touched.
            Product(beta)

    def __str__(self) -> str:
        return "Rescale" if self.beta is None else f"Rescale(beta={self.beta:g})"

    def check(self, name: str, program: WeightProgram) -> None:
        """Only parameterizations that name their balance have one."""
        found = program.parameterization
        if not isinstance(found, Balancing):
            wanted = "a product m*w, or another parameterization with a balance"
            raise self.fail(
                name, program, f"{wanted}, found {found}; run Product first"
            )
        if self.beta is not None and not _has_beta(found):
            raise self.fail(
                name,
                program,
                f"a parameterization with an option beta, found {found}; leave beta out",
            )
        # Where β is a constant of the recorded graph, the program would go on computing with the old one.
        if recorded(self._target(found)) != recorded(found):
            raise self.fail(
                name,
                program,
                f"an option beta that is not in the value of {found}; merge and apply anew",
            )

    def rewrite(self, name: str, program: WeightProgram) -> bool:
        """Re-split the entries that are off balance."""
        before, target = (
            program.parameterization,
            self._target(program.parameterization),
        )
        assert isinstance(target, Balancing)
        # Only entries that are off: a split rounds, and splitting balanced entries again would let θ drift.
        off = target.unbalanced(program.tensors())
        program.parameterization = target
        if bool(off.any()):
            program.write(program.theta(), where=off)
            return True
        return target != before

    def _target(self, found: Parameterization) -> Parameterization:
        return found if self.beta is None else replace(found, beta=self.beta)  # type: ignore[type-var]


def _has_beta(found: Any) -> bool:
    return is_dataclass(found) and any(field.name == "beta" for field in fields(found))
