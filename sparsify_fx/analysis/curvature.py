"""The Hessian of the loss: its largest eigenvalue by Lanczos, its trace by Hutchinson, from products with vectors.

Neither forms the matrix. Entries that a mask prunes are no directions: the matrix has a row for each kept entry only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad, vjp

from sparsify_fx.analysis.loss import Loss, MeanLoss, Weights
from sparsify_fx.errors import AnalysisError


@dataclass(frozen=True)
class Operator:
    """A symmetric matrix of `size` rows, known by its products with vectors [size]; like: a tensor of their kind."""

    size: int
    product: Callable[[Tensor], Tensor]
    like: Tensor


@dataclass(frozen=True)
class Eigenvalue:
    """The largest Ritz value; an eigenvalue lies within `residual` of it. converged: it is as close as was asked."""

    value: float
    residual: float
    iterations: int
    converged: bool


@dataclass(frozen=True)
class Trace:
    """The mean of zᵀHz over `probes` random z, and its standard error."""

    value: float
    standard_error: float
    probes: int


def hessian(loss: MeanLoss) -> Operator:
    """v -> Hv on the kept entries of the trainable tensors, `Hᵀv = Hv = Σ_b share_b · ∇⟨∇L_b(p), v⟩`.

    Reverse over reverse (vjp of grad): as fast here as forward over reverse, and every operation of torch has it.

    Raises AnalysisError when the masks keep nothing, or prune a tensor that they do not fit.
    """
    # 1. The kept entries, as indices into all trainable tensors laid out in a row.
    index = _kept_entries(loss.point, loss.masks)
    like = torch.cat([tensor.flatten() for tensor in loss.point.values()])
    if not len(index):
        raise AnalysisError("the masks keep no entry, so that the Hessian has no row")

    # 2. Pruned entries are zero in the vector and left out of the product: that is the matrix without their
    # rows and columns.
    def product(vector: Tensor) -> Tensor:
        flat = torch.zeros_like(like)
        flat[index] = vector
        tangent, total = _like(flat, loss.point), torch.zeros_like(flat)
        # Batch by batch, so that memory holds the graph of one.
        for share, term in loss.terms:
            total += share * _hessian_times(term, loss.point, tangent)
        return total[index]

    return Operator(len(index), product, like[:0])


def largest_eigenvalue(
    operator: Operator, *, iterations: int = 50, tolerance: float = 1e-2, seed: int = 0
) -> Eigenvalue:
    """The algebraically largest eigenvalue by Lanczos with full reorthogonalization.

    With `H V = V T + β v eᵀ` and the largest eigenpair (λ, s) of the tridiagonal T, the residual is `|β s_last|`. It
    keeps one vector [size] for each iteration.

    Args:
        iterations: at most so many products with H.
        tolerance: stop once residual <= tolerance · abs(λ).
        seed: of the start vector.

    >>> matrix = torch.diag(torch.tensor([-5.0, 1.0, 3.0]))
    >>> found = largest_eigenvalue(Operator(3, lambda v: matrix @ v, torch.zeros(0)))
    >>> round(found.value, 4), found.converged
    (3.0, True)

    Source: [Lanczos 1950]; sharpness as the largest eigenvalue: [Gadhikar 2025], section 3 and Fig. 5b.
    """
    # 1. A random unit vector, drawn on the CPU so that the seed gives the same one for every device.
    start = torch.randn(
        operator.size, generator=torch.Generator().manual_seed(seed), device="cpu"
    ).to(operator.like)
    steps = min(iterations, operator.size)
    basis = torch.empty(steps, operator.size, dtype=start.dtype, device=start.device)
    basis[0] = start / start.norm()

    # 2. Each step adds a row to the tridiagonal T: the diagonal and, `beside` it, the norm of what is new.
    diagonal: list[float] = []
    beside: list[float] = []
    for step in range(1, steps + 1):
        image = operator.product(basis[step - 1])
        diagonal.append(float(image @ basis[step - 1]))
        # Against all vectors and not the last two alone, as exact arithmetic would allow: rounding brings
        # found directions back, and with them copies of eigenvalues. Twice, since once leaves
        # what rounding made of nearly parallel vectors.
        for _ in range(2):
            image = image - basis[:step].T @ (basis[:step] @ image)

        # 3. The residual of the top pair needs no product with H.
        beta = float(image.norm())
        value, last = _top(diagonal, beside)
        residual = beta * abs(last)
        done = residual <= tolerance * abs(value)
        if done or step == steps:
            break
        # β = 0 never gets here: an invariant subspace has residual 0, which is done.
        beside.append(beta)
        basis[step] = image / beta
    return Eigenvalue(value, residual, step, done)


def trace(operator: Operator, *, probes: int = 20, seed: int = 0) -> Trace:
    """tr H ≈ mean of zᵀHz over random signs z, with the standard error `std / sqrt(probes)`.

    Args:
        probes: at least 2.
        seed: of the signs.

    >>> found = trace(Operator(3, lambda v: torch.tensor([-5.0, 1.0, 3.0]) * v, torch.zeros(0)), probes=4)
    >>> found.value, found.standard_error
    (-1.0, 0.0)

    Source: [Hutchinson 1990].
    """
    if probes < 2:
        raise AnalysisError(
            f"probes={probes} leaves no standard error; take at least 2"
        )
    # Signs and not normal numbers: the diagonal of H then adds no variance, only what lies off it.
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(probes):
        signs = (
            torch.randint(0, 2, (operator.size,), generator=generator, device="cpu") * 2
            - 1
        ).to(operator.like)
        values.append(float(signs @ operator.product(signs)))
    found = torch.tensor(values, dtype=torch.float64, device="cpu")
    return Trace(float(found.mean()), float(found.std()) / probes**0.5, probes)


def _hessian_times(loss: Loss, point: Weights, tangent: Weights) -> Tensor:
    """Hv of one batch's loss, in the order of the point's tensors."""
    pull = vjp(grad(loss), point)[1]
    (product,) = pull(tangent)
    return torch.cat([product[name].flatten() for name in point])


def _kept_entries(point: Weights, masks: Mapping[str, Tensor]) -> Tensor:
    """The places of the entries that count in all tensors laid out in a row."""
    # A mask of another model would otherwise be ignored, and the matrix be a larger one.
    odd = [
        name
        for name, mask in masks.items()
        if name not in point or point[name].shape != mask.shape
    ]
    if odd:
        raise AnalysisError(
            f"the mask of {odd[0]} fits no trainable tensor of the model; give masks of this model"
        )
    flags = []
    for name, tensor in point.items():
        whole = torch.ones_like(tensor, dtype=torch.bool)
        flags.append(masks.get(name, whole).to(whole).flatten())
    return torch.cat(flags).nonzero().squeeze(1)


def _like(flat: Tensor, point: Weights) -> Weights:
    """A flat vector as tensors of the point's names and shapes."""
    parts = torch.split(flat, [tensor.numel() for tensor in point.values()])
    return {
        name: part.view_as(tensor)
        for part, (name, tensor) in zip(parts, point.items(), strict=True)
    }


def _top(diagonal: list[float], beside: list[float]) -> tuple[float, float]:
    """Largest eigenvalue of the tridiagonal matrix, and the last entry of its unit eigenvector."""
    # float64 and dense: T has at most as many rows as there were iterations.
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64, device="cpu"))
    if beside:
        off = torch.diag(torch.tensor(beside, dtype=torch.float64, device="cpu"), 1)
        matrix = matrix + off + off.T
    # Ascending, so that the last is the algebraically largest: that of largest size can be negative.
    values, vectors = torch.linalg.eigh(matrix)
    return float(values[-1]), float(vectors[-1, -1])
