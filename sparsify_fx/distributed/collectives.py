"""Collective calls: what travels between the ranks of a process group, on whatever device the group can send from."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor

from sparsify_fx.errors import DistributedError

# Of every rank at every exchange.
_MESSAGE_BYTES = 1024
# Summed together: 32 MB in float64 for each rank.
_ENTRIES_AT_ONCE = 2**22


def sum_in_place(ranks: dist.ProcessGroup, tensor: Tensor) -> Tensor:
    """The sum over the ranks, written into the tensor where it is contiguous.

    Added in float64 in the order of the ranks: neither the backend nor the network decides a bit.
    """
    # In parts: the float64 copies of a whole layer on every rank would take several times its memory.
    flat = tensor.contiguous().view(-1)
    for part in torch.split(flat, _ENTRIES_AT_ONCE) if flat.numel() else ():
        part.copy_(_sum_in_rank_order(ranks, part))
    return flat.view(tensor.shape)


def _sum_in_rank_order(ranks: dist.ProcessGroup, part: Tensor) -> Tensor:
    """Each rank adds up its share of the entries and gives the sums to all."""
    # 1. Every rank is given one share of the entries by all others. `all_reduce` would do all in one call, but it
    #    adds in an order that the backend chooses, and the order decides the last bits.
    size = dist.get_world_size(ranks)
    share = math.ceil(part.numel() / size)
    device = _device(ranks, part.device)
    own = torch.zeros(size * share, dtype=torch.float64, device=device)
    own[: part.numel()] = part
    pieces = torch.empty_like(own)
    dist.all_to_all_single(pieces, own, group=ranks)
    # 2. Added in rank order.
    total, *others = pieces.view(size, share)
    for other in others:
        total = total + other
    # 3. Every rank gives its share of the sums to all, into the buffer that is free by now.
    dist.all_gather(list(own.view(size, share)), total.contiguous(), group=ranks)
    return own[: part.numel()].to(part.device)


def gather_texts(ranks: dist.ProcessGroup, text: str) -> list[str]:
    """The text of every rank, cut to a kilobyte, in rank order.

    Raises DistributedError when the group breaks: a rank died, or waits elsewhere.
    """
    raw = text.encode()
    # Cut at bytes and decoded again: half a character at the end would not decode on the other side.
    if len(raw) > _MESSAGE_BYTES:
        raw = raw[:_MESSAGE_BYTES].decode(errors="ignore").encode()
    # A fixed size: `all_gather_object` would first exchange lengths, and pickle what other ranks send.
    own = torch.zeros(_MESSAGE_BYTES, dtype=torch.uint8, device="cpu")
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


def take_from_first(ranks: dist.ProcessGroup, tensor: Tensor) -> None:
    """Give every rank the values of the first one, in place."""
    sent = tensor.detach().to(_device(ranks, tensor.device)).contiguous()
    dist.broadcast(sent, group=ranks, group_src=0)
    tensor.detach().copy_(sent)


def _device(ranks: dist.ProcessGroup, wanted: torch.device) -> torch.device:
    """Where the group can send a tensor from: where it is, else the CPU, else the accelerator."""
    kinds = [device.type for device in ranks._device_types]
    # Gloo sends from the CPU alone, whatever it says.
    gloo = "gloo" in dist.get_backend(ranks)
    # Where it is, if the group has a backend for that device: no copy.
    if wanted.type in kinds and not (gloo and wanted.type != "cpu"):
        return wanted
    if "cpu" in kinds:
        return torch.device("cpu")
    return torch.accelerator.current_accelerator(check_available=True) or wanted
