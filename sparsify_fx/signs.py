"""Signs and magnitudes of weights from two sources, put together."""

from __future__ import annotations

import torch
from torch import Tensor


def signed_like(magnitudes: Tensor, signs: Tensor) -> Tensor:
    """`|magnitudes| · sign(signs)`; where `signs` is zero the sign of `magnitudes` stays.

    Args:
        magnitudes: any shape, floating.
        signs: of the same shape, any dtype.

    >>> signed_like(torch.tensor([1.0, -2.0, -3.0]), torch.tensor([-1, 5, 0]))
    tensor([-1.,  2., -3.])
    """
    return torch.where(signs == 0, magnitudes, magnitudes.abs() * signs.sign().to(magnitudes.dtype))
