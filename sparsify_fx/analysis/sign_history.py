"""Signs over several points of training: when they settle, and how often they switch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def kept_signs(
    history: Sequence[Mapping[str, Tensor]], mask: Mapping[str, Tensor]
) -> Tensor:
    """The signs of the n weights that `mask` keeps at each of the T points of `history`, int8 [T, n].

    A weight that is zero at a point keeps the sign that it had before; one that starts at zero takes its first sign.

    Args:
        history: weights by name, oldest first.
        mask: by name, non-zero where a weight counts; the mask of the last point, as a rule.

    >>> points = [{"w": torch.tensor([0.0, 2.0, 1.0])}, {"w": torch.tensor([-1.0, 0.0, 1.0])}]
    >>> kept_signs(points, {"w": torch.tensor([1, 1, 0])})
    tensor([[-1,  1],
            [-1,  1]], dtype=torch.int8)
    """
    # 1. A row for each point, int8: a quarter of what its weights take.
    rows = []
    for point in history:
        signs = [point[name][kept.bool()].sign() for name, kept in mask.items()]
        rows.append(torch.cat([sign.to(torch.int8) for sign in signs]))

    # 2. Forward: zero has no sign, so that a weight which passes through it does not count as a switch.
    for after, now in zip(rows[1:], rows[:-1], strict=True):
        after.copy_(torch.where(after == 0, now, after))

    # 3. Backward, for weights that start at zero, as pruned or zero-initialized ones do.
    for before, now in zip(rows[-2::-1], rows[:0:-1], strict=True):
        before.copy_(torch.where(before == 0, now, before))
    return torch.stack(rows)


def settled_after(signs: Tensor) -> Tensor:
    """The first point from which on a sign stays: min {k : s_j = s_{T−1} for all j ≥ k}, int64 [n].

    Args:
        signs: [T, n], from `kept_signs`. With the start as point 0 and the end of cycle k as point k, 0 means that
            the initial sign was never wrong, and k that the sign did not change any more after cycle k.

    >>> settled_after(torch.tensor([[1, 1, 1], [1, -1, -1], [1, -1, 1]]))
    tensor([0, 1, 2])

    Source: [Gadhikar 2024], Fig. 5 (top), 14 (top) and 15b.
    """
    # The last point at which a sign is wrong, plus one; 0 where there is none.
    wrong = signs != signs[-1]
    places = torch.arange(1, len(signs) + 1, device=signs.device)[:, None]
    return (wrong * places).amax(0)


def sign_switches(signs: Tensor) -> Tensor:
    """How often a sign changed from one point to the next, int64 [n].

    >>> sign_switches(torch.tensor([[1, 1, 1], [1, -1, -1], [1, -1, 1]]))
    tensor([0, 1, 2])

    Source: [Gadhikar 2024], Fig. 5 (bottom) and 14 (bottom).
    """
    return (signs[1:] != signs[:-1]).sum(0)
