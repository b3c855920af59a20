"""Fingerprints: 64-bit hashes of tensors, computed where the tensors are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_WORDS_AT_ONCE = 2**22


def fingerprint(tensor: Tensor) -> Tensor:
    """A 64-bit hash of a tensor's bytes, computed on its device (0-dimensional, int64): Σ words · odd numbers mod 2⁶⁴.

    >>> fingerprint(torch.zeros(3)) == fingerprint(torch.ones(3))
    tensor(False)
    """
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    # A view as int64 needs whole words that start at a multiple of eight bytes.
    if flat.numel() % 8 or flat.storage_offset() % 8:
        padded = flat.new_zeros(flat.numel() + -flat.numel() % 8)
        padded[: flat.numel()] = flat
        flat = padded
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    for number, words in enumerate(torch.split(flat.view(torch.int64), _WORDS_AT_ONCE)):
        start = number * _WORDS_AT_ONCE
        # Integer products wrap around alike on every device, and their sum does not depend on its order: a GPU and a
        # CPU agree. A product with an odd number is one-to-one mod 2⁶⁴, so a single change always shows.
        total += (words * _odd_numbers(start, start + words.numel(), flat.device)).sum()
    return total


def _odd_numbers(start: int, stop: int, device: torch.device) -> Tensor:
    """A different one for every position; sums of products then collide by chance alone (splitmix64's mixing)."""
    # Its constants as signed numbers, and arithmetic shifts where the original's are logical: any mixing will do here.
    mixed = torch.arange(start + 1, stop + 1, device=device) * -7046029254386353131
    mixed = (mixed ^ (mixed >> 30)) * -4658895280553007687
    mixed = (mixed ^ (mixed >> 27)) * -7723592293110705685
    return (mixed ^ (mixed >> 31)) | 1


def text_hash(text: str) -> str:
    """16 hexadecimal digits that depend on the text alone."""
    bytes_ = torch.frombuffer(bytearray(text.encode() or b"\0"), dtype=torch.uint8)
    return f"{int(fingerprint(bytes_)) & (2**64 - 1):016x}"


def digest(tensors: Mapping[str, Tensor]) -> str:
    """One text for the contents of all tensors."""
    return text_hash(",".join(str(value) for value in fingerprints(tensors)))


def fingerprints(tensors: Mapping[str, Tensor]) -> list[int]:
    """One for each tensor; devices are asked once each."""
    hashes = [fingerprint(tensor) for tensor in tensors.values()]
    found: dict[int, int] = {}
    # `tolist` waits for the device: once for all hashes rather than once for each.
    for device in dict.fromkeys(value.device for value in hashes):
        mine = [i for i, value in enumerate(hashes) if value.device == device]
        found |= dict(
            zip(mine, torch.stack([hashes[i] for i in mine]).tolist(), strict=True)
        )
    return [found[i] for i in range(len(hashes))]
