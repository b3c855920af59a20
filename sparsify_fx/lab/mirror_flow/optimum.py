"""The optimum that Theorem 2.3 names, found without the flow, and how far an end of the flow is from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify_fx.errors import LabError
from sparsify_fx.lab.diagonal.bregman import mirror, width_at
from sparsify_fx.lab.diagonal.problem import Regression, factors


@dataclass(frozen=True)
class Potential:
    """R_a of every seed: u₀ and v₀ [seeds, n], and a [seeds, n]."""

    up: Tensor
    down: Tensor
    width: Tensor

    def slope(self, point: Tensor) -> Tensor:
        """∇R_a, [seeds, n]."""
        return mirror(point, self.up, self.down, self.width)

    def inverse(self, slope: Tensor) -> Tensor:
        """The point at which ∇R_a is `slope`: a sinh(2 slope + log(u₀/v₀))."""
        return self.width * torch.sinh(2 * slope + torch.log(self.up / self.down))


def potential_after(problem: Regression, total: float, exponent: float) -> Potential:
    """R_a with a = 2u₀v₀ exp(−exponent·∫α), from PILoT's start m² − w² = 1."""
    first, second = factors(problem.start, "pilot")
    up, down = (first + second) / 2, (first - second) / 2
    return Potential(up, down, width_at(up, down, total, exponent))


def off_span(problem: Regression, slope: Tensor) -> float:
    """Largest entry of ∇R_a that is no combination of the rows of Z: the KKT residual, 0 at the optimum."""
    rows = problem.inputs.mT
    fitted = rows @ torch.linalg.lstsq(rows, slope[..., None]).solution
    return float((slope - fitted[..., 0]).abs().max())


def minimize(problem: Regression, potential: Potential, steps: int = 200) -> Tensor:
    """argmin R_a(x) with Zx = y, [seeds, n], by Newton's method on the dual: x = ∇R_a⁻¹(Zᵀλ) and Zx = y.

    Raises LabError where it does not converge.
    """
    inputs = problem.inputs
    labels = (inputs @ problem.truth[..., None])[..., 0]
    dual = torch.zeros_like(labels)
    for _ in range(steps):
        shifted = 2 * (inputs.mT @ dual[..., None])[..., 0]
        shifted = shifted + torch.log(potential.up / potential.down)
        point = potential.width * torch.sinh(shifted)
        missing = labels - (inputs @ point[..., None])[..., 0]
        if float(missing.abs().max()) < 1e-11:
            return point
        # d(Zx)/dλ = Z diag(2a cosh) Zᵀ: positive definite, since Z has full rank.
        weights = 2 * potential.width * torch.cosh(shifted)
        hessian = (inputs * weights[:, None]) @ inputs.mT
        step = torch.linalg.solve(hessian, missing)
        # sinh grows fast: a full step from far away would leave all numbers behind.
        size = 2 * (inputs.mT @ step[..., None])[..., 0].abs().amax(1, keepdim=True)
        dual = dual + step / size.clamp(min=1.0)
    raise LabError(
        f"Newton's method on the dual did not converge in {steps} steps; take a smaller total ∫α"
    )
