"""Rescale: restore m² − w² = β without changing the weight."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsify_fx.parameterizations import Product, widened
from sparsify_fx.passes.base import ProgramPass
from sparsify_fx.program import WeightProgram


class Rescale(ProgramPass):
    """m, w -> the balanced split of θ = m ⊙ w: m > 0 and m² − w² = β again, θ the same within 2 ulp.

    Weight decay and gradient noise shrink β, and with it the freedom of signs. Entries that are balanced already are
    not touched, so a second run changes nothing; a pruned entry stays zero. Works in place: no recompile.

    Args:
        beta: the new β > 0; None keeps the one that the program was split with.

    Raises PassError when a program is no product.

    Source: paper 004, Algorithm 1 and Appendix B.
    """

    def __init__(self, beta: float | None = None) -> None:
        self.beta = beta
        if beta is not None:
            Product(beta)

    def __str__(self) -> str:
        return "Rescale" if self.beta is None else f"Rescale(beta={self.beta:g})"

    def check(self, name: str, program: WeightProgram) -> None:
        """Only products have an inner scaling."""
        if not isinstance(program.parameterization, Product):
            raise self.fail(name, program, f"a product m*w, found {program.parameterization}; run SplitProduct first")

    def rewrite(self, name: str, program: WeightProgram) -> bool:
        """Re-split the entries that are off balance."""
        product = program.parameterization
        assert isinstance(product, Product)
        target = product if self.beta is None else Product(self.beta)
        off = unbalanced(program.get_parameter("m"), program.get_parameter("w"), target.beta)
        program.parameterization = target
        if bool(off.any()):
            program.write(program.theta(), where=off)
            return True
        return target != product


def unbalanced(m: Tensor, w: Tensor, beta: float) -> Tensor:
    """Where m² − w² misses β by more than the rounding of a fresh split, or m <= 0 (bool, shape of m)."""
    m, w, eps = widened(m.detach()), widened(w.detach()), torch.finfo(m.dtype).eps
    return ((m * m - w * w - beta).abs() > 4 * eps * (m * m + w * w)) | (m <= 0)
