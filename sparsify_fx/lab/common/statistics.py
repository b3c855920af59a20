"""Means with intervals, and straight lines with R²."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

# The 0.975 quantile of Student's t for 1, 2, ... degrees of freedom; beyond the table the normal's is close enough.
_T = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
)
_T_MORE = ((20, 2.086), (30, 2.042), (60, 2.000), (120, 1.980))


@dataclass(frozen=True)
class Mean:
    """A mean and the half width of its 0.95 interval."""

    mean: float
    half: float

    def __str__(self) -> str:
        return f"{self.mean:.3g} ± {self.half:.2g}"

    @property
    def on_log_axis(self) -> tuple[float, float]:
        """The 0.95 interval of log(mean), from mean·exp(−half/mean) to mean·exp(half/mean), both above zero.

        By the delta method the logarithm's half width is half/mean. Of a positive quantity: mean ± half may reach below
        zero, where a log axis shows nothing.

        >>> low, high = Mean(1.0, 0.5).on_log_axis
        >>> round(low, 3), round(high, 3)
        (0.607, 1.649)
        """
        factor = math.exp(min(self.half / self.mean, 700.0))
        return self.mean / factor, self.mean * factor


def mean_with_interval(values: Tensor) -> Mean:
    """Mean of a vector and the half width of its 0.95 interval by Student's t; infinite for a single value.

    >>> import torch
    >>> str(mean_with_interval(torch.tensor([1.0, 2.0, 3.0])))
    '2 ± 2.5'
    """
    count = values.numel()
    # One value has no spread: an infinite interval lets no claim hold by accident.
    if count < 2:
        return Mean(float(values.mean()), math.inf)
    return Mean(
        float(values.mean()),
        t_quantile(count - 1) * float(values.std()) / math.sqrt(count),
    )


def t_quantile(freedom: int) -> float:
    """The 0.975 quantile of Student's t, never below the true one between the entries of its table.

    >>> t_quantile(9)
    2.262
    """
    if freedom <= len(_T):
        return _T[freedom - 1]
    # Rounded down to an entry of the table: the quantile falls with the degrees of freedom, so that
    # an interval comes out too wide rather than too narrow.
    return next((value for upto, value in reversed(_T_MORE) if freedom >= upto), 2.131)


@dataclass(frozen=True)
class Line:
    """y ≈ slope·x + intercept; r2 = 1 − residual / total sum of squares."""

    slope: float
    intercept: float
    r2: float


def fit_line(x: Tensor, y: Tensor) -> Line:
    """Least squares through points.

    >>> import torch
    >>> fit_line(torch.tensor([0.0, 1, 2]).double(), torch.tensor([1.0, 3, 5]).double())
    Line(slope=2.0, intercept=1.0, r2=1.0)
    """
    # About the means, where the sums do not lose their digits to a large offset of x.
    centered = x - x.mean()
    slope = float((centered * (y - y.mean())).sum() / centered.square().sum())
    intercept = float(y.mean()) - slope * float(x.mean())
    left = float((y - slope * x - intercept).square().sum())
    return Line(slope, intercept, 1 - left / float((y - y.mean()).square().sum()))
