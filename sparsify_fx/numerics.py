"""Arithmetic on tensors that several rooms share: thresholds over many tensors, signs, last places, wide floats."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sparsify_fx.errors import SparsityError

# Entries that are drawn to guess where the threshold lies.
_SAMPLE = 1 << 16
# Standard deviations of the guess; a guess that fails costs time, never the result.
_SLACK = 6.0
# Fewer entries than these are joined and given to torch.kthvalue.
_SMALL = 1 << 18
# Entries that are compared at once on the CPU: their masks stay in its cache.
_CHUNK = 1 << 18


def kth_largest(parts: Sequence[Tensor], kept: int) -> float | int:
    """The `kept`-th largest entry of all parts together.

    A sample gives two numbers between which the threshold lies, one pass over the entries counts those above and
    collects the few between, and torch.kthvalue looks among these: a quarter of its time on all entries.

    Args:
        parts: one dimension and one dtype each way, as `comparable` makes them; without NaN.
        kept: 1 <= kept <= number of entries.

    >>> kth_largest([torch.tensor([1.0, 5.0]), torch.tensor([3.0])], 2)
    3.0
    """
    total = sum(part.numel() for part in parts)
    # Below this size drawing a sample costs more than it saves.
    if total <= _SMALL or not parts[0].is_floating_point():
        return _by_kthvalue(parts, kept)
    # 1. Guess two numbers around the threshold from a sample.
    low, high = _bracket(parts, kept, total)
    # 2. One pass over all entries. If the guess holds, the threshold is among the few between.
    between, at_least_high = _between(parts, low, high)
    if at_least_high < kept <= at_least_high + between.numel():
        return kth_largest([between], kept - at_least_high)
    # 3. Many equal entries at an end of the bracket (zeros, say) leave it outside: then it is that end itself.
    for bound in (high, low):
        above = sum(int((part > bound).count_nonzero()) for part in parts)
        if (
            above
            < kept
            <= above + sum(int((part == bound).count_nonzero()) for part in parts)
        ):
            return bound
    # 4. The sample misled: slower, and right as well.
    return _by_kthvalue(parts, kept)


def comparable(scores: Sequence[Tensor]) -> list[Tensor]:
    """The scores as flat tensors of one dtype that holds each of their values; copied only where it has to be.

    Raises SparsityError on NaN.
    """
    # float32 holds every value of the half formats, so that equal scores stay equal and no order changes.
    common = _common({score.dtype for score in scores})
    parts = [score.detach().reshape(-1).to(common) for score in scores]
    # The maximum is NaN if anything is, and takes a tenth of the time of isnan.
    if common.is_floating_point and any(
        part.numel() and bool(part.amax().isnan()) for part in parts
    ):
        raise SparsityError(
            "scores hold NaN: the model or its gradients diverged; nothing was pruned"
        )
    return parts


def _common(dtypes: set[torch.dtype]) -> torch.dtype:
    """float32 for floating numbers up to that width, a lone integer type itself, else float64."""
    if all(dtype.is_floating_point and dtype.itemsize <= 4 for dtype in dtypes):
        return torch.float32
    if len(dtypes) == 1 and torch.bool not in dtypes:
        return next(iter(dtypes))
    return torch.float64


def _by_kthvalue(parts: Sequence[Tensor], kept: int) -> float | int:
    # Parts may lie on several devices: all are brought to the first one's.
    flat = (
        parts[0]
        if len(parts) == 1
        else torch.cat([part.to(parts[0].device) for part in parts])
    )
    found: float | int = torch.kthvalue(flat, flat.numel() - kept + 1).values.item()
    return found


def _bracket(parts: Sequence[Tensor], kept: int, total: int) -> tuple[float, float]:
    """Two numbers that enclose the threshold almost always, from a sample that is the same at every call."""
    # A seed of its own: the user's random numbers are not touched, and equal scores take equal steps.
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for part in parts:
        count = math.ceil(part.numel() * _SAMPLE / total)
        places = torch.randint(
            max(part.numel(), 1), (count,), generator=generator, device="cpu"
        )
        drawn.append(part[places.to(part.device)].cpu())
    sample = torch.cat(drawn).sort(descending=True).values
    share = kept / total
    rank = share * len(sample)
    # The number of sampled entries above the threshold is binomial; this is its standard deviation.
    margin = _SLACK * (math.sqrt(len(sample) * share * (1 - share)) + 1)
    first, last = math.floor(rank - margin), math.ceil(rank + margin)
    high = float(sample[first]) if first >= 0 else math.inf
    low = float(sample[last]) if last < len(sample) else -math.inf
    return low, high


def _between(parts: Sequence[Tensor], low: float, high: float) -> tuple[Tensor, int]:
    """The entries x with low < x < high, and how many are at least `high`."""
    found, counts = [], []
    for part in parts:
        for chunk in (
            torch.split(part, _CHUNK) if part.device.type == "cpu" else (part,)
        ):
            found.append(chunk[(chunk > low) & (chunk < high)].to(parts[0].device))
            # As a tensor: a number would wait for the device once for each part.
            counts.append((chunk >= high).count_nonzero().to(parts[0].device))
    return torch.cat(found), int(torch.stack(counts).sum())


def signed_like(magnitudes: Tensor, signs: Tensor) -> Tensor:
    """`|magnitudes| · sign(signs)`; where `signs` is zero the sign of `magnitudes` stays.

    Args:
        magnitudes: any shape, floating.
        signs: of the same shape, any dtype.

    >>> signed_like(torch.tensor([1.0, -2.0, -3.0]), torch.tensor([-1, 5, 0]))
    tensor([-1.,  2., -3.])
    """
    return torch.where(
        signs == 0, magnitudes, magnitudes.abs() * signs.sign().to(magnitudes.dtype)
    )


def widened(tensor: Tensor) -> Tensor:
    """`tensor` in float64, or in float32 on devices that have no float64."""
    return tensor.float() if tensor.device.type == "mps" else tensor.double()


def ulp(theta: Tensor) -> Tensor:
    """The distance from abs(θ) to the next larger number of its dtype.

    >>> ulp(torch.tensor([1.0])).item() == 2.0**-23
    True
    """
    size = theta.abs()
    return torch.nextafter(size, torch.full_like(size, torch.inf)) - size
