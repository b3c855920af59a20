"""Lie brackets of a map's gradients: a mirror flow needs them in the kernel of its Jacobian (Lemma D.1)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]


def elementwise(parameters: Tensor) -> Tensor:
    """m ⊙ w of [m, w], n entries each."""
    half = len(parameters) // 2
    return parameters[:half] * parameters[half:]


def neuronwise(parameters: Tensor) -> Tensor:
    """m·w of [m, w], one m for all entries of w."""
    return parameters[0] * parameters[1:]


def seen_brackets(of: Map, parameters: Tensor) -> Tensor:
    """∂g [∇g_i, ∇g_j] for all i, j, [n, n, n]: zero where the brackets lie in the kernel of the Jacobian.

    [∇g_i, ∇g_j] = ∇²g_j ∇g_i − ∇²g_i ∇g_j up to its sign.
    """
    jacobian = torch.func.jacrev(of)(parameters)
    hessians = torch.func.jacrev(torch.func.jacrev(of))(parameters)
    moved = torch.einsum("jkl,il->ijk", hessians, jacobian)
    return torch.einsum("ijk,nk->ijn", moved - moved.transpose(0, 1), jacobian)


def order_matters(of: Map, parameters: Tensor, time: float = 0.1) -> float:
    """How far apart g ends that follows ∇g₁ and then ∇g₂, or the other way round, relative to its move."""
    ends = []
    for order in ((0, 1), (1, 0)):
        now = parameters.clone()
        for entry in order:
            now = _follow(of, entry, now, time)
        ends.append(of(now))
    moved = (ends[0] - of(parameters)).norm()
    return float((ends[0] - ends[1]).norm() / moved)


def _follow(of: Map, entry: int, start: Tensor, time: float) -> Tensor:
    """The flow along ∇g_entry: its Hessian is constant for both maps, so that it is a matrix exponential."""
    hessian = torch.func.jacrev(torch.func.jacrev(lambda p: of(p)[entry]))(start)
    end: Tensor = torch.linalg.matrix_exp(time * hessian) @ start
    return end
