"""Means over seeds with 95 % intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """n values: their mean, and half the length of its 95 % interval (Student's t); None where one value tells none."""

    n: int
    mean: float
    half: float | None


def spread(values: Sequence[float]) -> Spread:
    """mean ± t(0.975, n − 1) · s / √n, with s the standard deviation by n − 1.

    The interval holds for the mean over seeds of which these are a sample, as far as values are spread normally.

    >>> found = spread([0.90, 0.92, 0.94])
    >>> found.n, round(found.mean, 4), round(found.half, 4)
    (3, 0.92, 0.0497)
    """
    n = len(values)
    if n == 0:
        return Spread(0, math.nan, None)
    # In exact arithmetic: the mean of equal values is that value, to the bit, and their interval has no length.
    mean = statistics.mean(values)
    if n == 1:
        return Spread(1, mean, None)
    return Spread(n, mean, quantile(n - 1) * statistics.stdev(values) / math.sqrt(n))


def quantile(freedom: int) -> float:
    """t with 95 % of Student's distribution of `freedom` degrees of freedom between −t and t.

    >>> round(quantile(2), 6)
    4.302653
    """
    if freedom < 1:
        raise ValueError(f"{freedom} degrees of freedom; at least 1")
    # By halving: 13 lies above the largest, 12.706 for one degree of freedom.
    low, high = 0.0, 13.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if between(middle, freedom) < 0.95 else (low, middle)
    return (low + high) / 2


def between(t: float, freedom: int) -> float:
    """The share of Student's distribution between −t and t, by its finite series for whole degrees of freedom.

    With θ = atan(t/√ν): for even ν, sin θ · (1 + ½ cos²θ + (1·3)/(2·4) cos⁴θ + … up to cos^(ν−2) θ); for odd ν,
    2/π · (θ + sin θ · (cos θ + ⅔ cos³θ + … up to cos^(ν−2) θ)).

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2 == 1
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    # Each term is the one before times (k − 1)/k · cos²θ: even k for even ν, odd k for odd ν.
    for k in range(3 if odd else 2, freedom + 1, 2):
        total += term
        term *= (k - 1) / k * cosine**2
    if odd:
        return 2 / math.pi * (angle + sine * total)
    return sine * total
