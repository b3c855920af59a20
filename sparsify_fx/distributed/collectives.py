"""Collective calls: what travels between the ranks of a process group, on whatever device the group can send from."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor

from sparsify_fx.errors import DistributedError

_MESSAGE_BYTES = 1024  # of every rank at every exchange
_ENTRIES_AT_ONCE = 2**22  # summed together: 32 MB in float64 for each rank


def sum_in_place(ranks: dist.ProcessGroup, tensor: Tensor) -> Tensor:
    """The sum over the ranks, written into the tensor where it is contiguous.

    Added in float64 in the order of the ranks: neither the backend nor the network decides a bit.
    """
    flat = tensor.contiguous().view(-1)
    for part in torch.split(flat, _ENTRIES_AT_ONCE) if flat.numel() else ():
        part.copy_(_sum_in_rank_order(ranks, part))
    return flat.view(tensor.shape)


def _sum_in_rank_order(ranks: dist.ProcessGroup, part: Tensor) -> Tensor:
    """Each rank adds up its share of the entries and gives the sums to all."""
    size = dist.get_world_size(ranks)
    share = math.ceil(part.numel() / size)
    device = _device(ranks, part.device)
    own = torch.zeros(size * share, dtype=torch.float64, device=device)
    own[: part.numel()] = part
    pieces = torch.empty_like(own)
    dist.all_to_all_single(pieces, own, group=ranks)
    total, *others = pieces.view(size, share)
    for other in others:
        total = total + other
    dist.all_gather(list(own.view(size, share)), total.contiguous(), group=ranks)
    return own[: part.numel()].to(part.device)


def gather_texts(ranks: dist.ProcessGroup, text: str) -> list[str]:
    """The text of every rank, cut to a kilobyte, in rank order.

    Raises DistributedError when the group breaks: a rank died, or waits elsewhere.
    """
    raw = text.encode()
    if len(raw) > _MESSAGE_BYTES:
        raw = raw[:_MESSAGE_BYTES].decode(errors="ignore").encode()
    own = torch.zeros(_MESSAGE_BYTES, dtype=torch.uint8)
    own[: len(raw)] = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    try:
        rows = gather(ranks, own)
    except RuntimeError as error:
        moment = text.split("\x1f")[0]
        raise DistributedError(
            f"not every rank came to {moment}: {error}; every rank must make the same calls"
        ) from error
    return [bytes(row.tolist()).rstrip(b"\0").decode() for row in rows]


def gather(ranks: dist.ProcessGroup, own: Tensor) -> list[Tensor]:
    """The tensor [n] of every rank, in rank order, on the CPU."""
    own = own.to(_device(ranks, own.device))
    rows = own.new_empty(dist.get_world_size(ranks), own.numel())
    dist.all_gather(list(rows), own, group=ranks)
    return list(rows.cpu())


def _device(ranks: dist.ProcessGroup, wanted: torch.device) -> torch.device:
    """Where the group can send a tensor from: where it is, else the CPU, else the accelerator."""
    kinds = [device.type for device in ranks._device_types]
    gloo = "gloo" in dist.get_backend(
        ranks
    )  # sends from the CPU alone, whatever it says
    if wanted.type in kinds and not (gloo and wanted.type != "cpu"):
        return wanted
    if "cpu" in kinds:
        return torch.device("cpu")
    return torch.accelerator.current_accelerator(check_available=True) or wanted
