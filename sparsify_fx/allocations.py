"""Allocations: how a budget of non-zeros is divided among the layers, exactly.

All but `Global` are proportional: layer i gets min(capacity_i, ε · share_i), with the ε that spends the budget; the
excess of layers that are full goes to the others. Shares are integers, so the arithmetic is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from sparsify_fx.errors import SparsityError
from sparsify_fx.masks import nonzeros, top_mask
from sparsify_fx.registry import Registry


@runtime_checkable
class Allocation(Protocol):
    """Divides `kept` weights among layers."""

    def counts(self, scores: Mapping[str, Tensor], capacity: Mapping[str, int], kept: int) -> dict[str, int]:
        """Non-zeros per layer; they sum to `kept` and none exceeds its layer's capacity.

        Args:
            scores: per layer, shape of the weight.
            capacity: how many weights of the layer may stay (its size, or what is alive in a later cycle).
            kept: the whole budget.
        """


ALLOCATIONS: Registry[type[Any]] = Registry("allocation")


@ALLOCATIONS.register("global")
@dataclass(frozen=True)
class Global:
    """The highest scores of the whole model stay, wherever they are."""

    def counts(self, scores: Mapping[str, Tensor], capacity: Mapping[str, int], kept: int) -> dict[str, int]:
        """Count of each layer's weights among the `kept` highest scores; ties by layer order, then index."""
        _check(capacity, kept)
        flat = torch.cat([score.detach().reshape(-1).to(torch.float64) for score in scores.values()])
        sizes = [score.numel() for score in scores.values()]
        parts = torch.split(top_mask(flat, kept), sizes)
        return {name: int(part.sum(dtype=torch.int64)) for name, part in zip(scores, parts, strict=True)}


@ALLOCATIONS.register("uniform")
@dataclass(frozen=True)
class Uniform:
    """Every layer has the same density."""

    def counts(self, scores: Mapping[str, Tensor], capacity: Mapping[str, int], kept: int) -> dict[str, int]:
        """Share of layer i: its number of weights."""
        return proportional({name: score.numel() for name, score in scores.items()}, capacity, kept)


@ALLOCATIONS.register("balanced")
@dataclass(frozen=True)
class Balanced:
    """Every layer has the same number of non-zeros; layers too small stay dense and the rest is redistributed.

    Source: Gadhikar et al. 2023, as used by papers 000 and 004 for random masks.
    """

    def counts(self, scores: Mapping[str, Tensor], capacity: Mapping[str, int], kept: int) -> dict[str, int]:
        """Share of every layer: 1."""
        return proportional(dict.fromkeys(scores, 1), capacity, kept)


@ALLOCATIONS.register("erk")
@dataclass(frozen=True)
class ErdosRenyiKernel:
    """Density of layer i proportional to (n_out + n_in + k_h + k_w) / (n_out · n_in · k_h · k_w).

    Source: Evci et al. 2020 (RigL), section 3.
    """

    def counts(self, scores: Mapping[str, Tensor], capacity: Mapping[str, int], kept: int) -> dict[str, int]:
        """Share of layer i: the sum of its weight's dimensions (density times size)."""
        return proportional({name: sum(score.shape) for name, score in scores.items()}, capacity, kept)


@ALLOCATIONS.register("per-layer")
@dataclass(frozen=True)
class PerLayer:
    """A sparsity for each layer, by the name of its weight; together they must meet the budget.

    Attributes:
        sparsity: ((name, fraction in [0, 1]), ...), one for every prunable weight.
    """

    sparsity: tuple[tuple[str, float], ...]

    def counts(self, scores: Mapping[str, Tensor], capacity: Mapping[str, int], kept: int) -> dict[str, int]:
        """round((1 − s_i) · n_i), corrected to the budget by largest remainder when it is within rounding of it."""
        given = dict(self.sparsity)
        if set(given) != set(scores):
            odd = sorted(set(given) ^ set(scores))
            raise SparsityError(f"per-layer sparsity must name every prunable weight once; missing or unknown: {odd}")
        ideal = {name: (1 - Fraction(given[name])) * scores[name].numel() for name in scores}
        asked = sum(ideal.values(), Fraction(0))
        if abs(asked - kept) > len(ideal):
            raise SparsityError(
                f"per-layer sparsities keep {float(asked):.0f} weights, the requested sparsity {kept}; make them agree"
            )
        return _rounded(ideal, capacity, kept)


@runtime_checkable
class Pattern(Protocol):
    """An allocation that constrains where in a layer the non-zeros lie, not only how many there are."""

    def masks(self, scores: Mapping[str, Tensor], kept: int) -> dict[str, Tensor]:
        """The masks themselves; SparsityError when the pattern does not meet the budget."""


@ALLOCATIONS.register("n:m")
@dataclass(frozen=True)
class NofM:
    """The n highest scores of every m consecutive inputs of an output unit stay (2:4 runs on sparse tensor cores).

    Inputs are consecutive along dimension 1 of the weight: input features, or input channels at one kernel position. A
    layer whose inputs m does not divide stays dense. The sparsity is decided by the pattern: ask for that one.

    Attributes:
        n, m: 1 <= n < m.

    Source: Mishra et al. 2021 (2:4); Zhou et al. 2021 (N:M).
    """

    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.n < self.m:
            raise SparsityError(
                f"n:m: n={self.n}, m={self.m} must be whole numbers with 1 <= n < m, for instance 2 and 4"
            )

    def counts(self, scores: Mapping[str, Tensor], capacity: Mapping[str, int], kept: int) -> dict[str, int]:
        """Non-zeros per layer under the pattern."""
        return {name: int(mask.sum(dtype=torch.int64)) for name, mask in self.masks(scores, kept).items()}

    def masks(self, scores: Mapping[str, Tensor], kept: int) -> dict[str, Tensor]:
        """The pattern's masks, if they keep exactly `kept` weights."""
        masks = {name: self._mask(score) for name, score in scores.items()}
        pattern, total = nonzeros(masks), sum(score.numel() for score in scores.values())
        if pattern != kept:
            raise SparsityError(
                f"{self.n}:{self.m} keeps {pattern} of these {total} weights, the request keeps {kept}; "
                f"ask for sparsity={1 - pattern / total!r}, or leave out layers with exclude="
            )
        return masks

    def _mask(self, score: Tensor) -> Tensor:
        if score.ndim < 2 or score.shape[1] % self.m:
            return torch.ones_like(score, dtype=torch.uint8)
        moved = score.detach().movedim(1, -1)
        groups = moved.reshape(*moved.shape[:-1], -1, self.m)
        # A stable sort breaks ties by index.
        best = groups.sort(dim=-1, descending=True, stable=True).indices[..., : self.n]
        chosen = torch.zeros_like(groups, dtype=torch.uint8).scatter_(-1, best, 1)
        return chosen.flatten(-2).movedim(-1, 1).contiguous()


def proportional(shares: Mapping[str, int], capacity: Mapping[str, int], kept: int) -> dict[str, int]:
    """Divide `kept` in proportion to `shares`, none above its `capacity`; rounded by largest remainder.

    >>> proportional({"a": 1, "b": 1, "c": 1}, {"a": 2, "b": 9, "c": 9}, 11)
    {'a': 2, 'b': 5, 'c': 4}
    """
    _check(capacity, kept)
    order = sorted(shares, key=lambda name: Fraction(capacity[name], shares[name]))
    budget, weight = kept, sum(shares.values())
    ideal: dict[str, Fraction] = {}
    for name in order:  # fullest first: once one layer is not full at the current level, none of the rest is
        part = min(Fraction(capacity[name]), Fraction(budget * shares[name], weight))
        ideal[name] = part
        if part == capacity[name]:
            budget, weight = budget - capacity[name], weight - shares[name]
    return _rounded({name: ideal[name] for name in shares}, capacity, kept)


def _rounded(ideal: Mapping[str, Fraction], capacity: Mapping[str, int], kept: int) -> dict[str, int]:
    """Integers next to `ideal` that sum to `kept`; ties go to the earlier layer."""
    counts = {name: min(int(part), capacity[name]) for name, part in ideal.items()}
    position = {name: i for i, name in enumerate(ideal)}
    while (missing := kept - sum(counts.values())) != 0:
        step = 1 if missing > 0 else -1
        free = [n for n in ideal if (counts[n] < capacity[n] if step > 0 else counts[n] > 0)]
        free.sort(key=lambda n: (-step * (ideal[n] - counts[n]), position[n]))
        for name in free[: abs(missing)]:
            counts[name] += step
    return counts


def _check(capacity: Mapping[str, int], kept: int) -> None:
    if not 0 <= kept <= sum(capacity.values()):
        raise SparsityError(f"cannot keep {kept} weights of {sum(capacity.values())} that may stay")
