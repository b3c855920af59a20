"""For one weight, every way to store it that was asked for; for all weights, the ways that make the smallest file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sparsify_fx.onnx_export.storage.codecs.encoding import Encoding
from sparsify_fx.onnx_export.storage.codecs.fp32 import FP32
from sparsify_fx.onnx_export.storage.codecs.operators import FASTEST
from sparsify_fx.onnx_export.storage.codecs.parts import Parts, own_bytes, shared_bytes
from sparsify_fx.onnx_export.storage.codecs.values import Array, ValueKind, Weight

_WORTH = 0.9
"""How much of the file without `coo` one with it may have at most."""

Family = tuple[frozenset[str], frozenset[str]]
"""Names of encodings, and of kinds of values."""


@dataclass(frozen=True)
class Choice:
    """One way to store a weight: names of encoding and values, and its parts (None: leave the tensor as it is).

    `cost`: the bytes that this weight adds to the file, `digest` and `nonzeros` belong to the array it gives.
    """

    encoding: str
    values: str
    parts: Parts | None
    cost: int
    digest: bytes
    nonzeros: int


def untouched(array: Array, size: int, zero: Array | None = None) -> Choice:
    """The choice to leave a tensor of `size` bytes as it is; `zero`: what stands for zero in it, if it is quantized."""
    return Choice(
        "dense", "fp32", None, size, digest(array), count_nonzeros(array, zero)
    )


def choices(
    weight: Weight,
    encodings: Sequence[Encoding],
    kind: ValueKind,
    size: int,
    operators: frozenset[str] = FASTEST,
) -> Iterator[Choice]:
    """All ways to store the weight, `size` bytes as it is, with these encodings and this kind of values.

    Encodings other than dense are for weights with zeros. Nothing comes of a kind that refuses the weight, nor of
    forms with other operators than these.
    """
    if kind.refuses(weight) is not None:
        return
    # Once for all encodings, which differ only in how they store these codes.
    stored = kind.quantize(weight)
    decoded = stored.decoded()
    kept = stored.places().size
    mark, nonzeros = (
        digest(decoded),
        kept if stored.background is not None else count_nonzeros(decoded),
    )
    for encoding in encodings:
        # The tensor as it is: it is not copied, and may still lie in external data.
        if encoding.name == "dense" and kind is FP32:
            yield Choice("dense", "fp32", None, size, mark, nonzeros)
        elif encoding.refuses(stored, kind) is None and (
            kept < stored.codes.size or encoding.name == "dense"
        ):
            parts = encoding.encode(stored, kind, operators)
            if parts.operators <= operators:
                yield Choice(
                    encoding.name, kind.name, parts, own_bytes(parts), mark, nonzeros
                )


def worth_keeping(found: Sequence[Choice]) -> list[Choice]:
    """Those that may be in the smallest file: not larger than the smallest with all tables that it would have to bring.

    Large weights are left with one of them, so that a model of gigabytes is never held in every encoding at once.
    """
    # What costs more than the cheapest with all of its tables is in no smallest file:
    # that one could be put in its place. Not a `coo` one, though, in a file without any.
    plain = [choice for choice in found if choice.encoding != "coo"]
    best = min(plain or found, key=lambda choice: choice.cost)
    limit = best.cost + shared_bytes([best.parts])
    return [choice for choice in found if choice.cost <= limit]


def smallest(
    weights: Sequence[Sequence[Choice]], families: Iterable[Family], beside: int = 0
) -> list[Choice]:
    """One choice for each weight: the smallest of each, from the family that gives the smallest file.

    A family is a set of encodings and one of kinds of values. They are compared because small files may not be worth
    the tables that encodings share. The first of equals counts; a weight that a family cannot store keeps all its
    choices. Where there are families without `coo`, those with it have to make a file that is a tenth smaller: many
    runtimes and tools refuse a file for one sparse initializer. `beside`: bytes of the file that are no weights.
    """
    # Each family is tried as a whole file. Weight by weight the cheapest would look free
    # of the tables that it brings, which are counted once for all.
    files: dict[bool, list[list[Choice]]] = {False: [], True: []}
    for encodings, values in families:
        allowed = [_allowed(found, encodings, values) for found in weights]
        file = [min(found, key=lambda choice: choice.cost) for found in allowed]
        files["coo" in encodings].append(file)
    best = [min(each, key=_file_bytes) for each in files.values() if each]
    plain, last = (beside + _file_bytes(file) for file in (best[0], best[-1]))
    return best[-1] if last <= _WORTH * plain else best[0]


def _allowed(
    found: Sequence[Choice], encodings: frozenset[str], values: frozenset[str]
) -> Sequence[Choice]:
    """The choices of one weight in a family; where it has none, all of its own that keep the file free of `coo`."""
    inside = [
        each for each in found if each.encoding in encodings and each.values in values
    ]
    plain = [each for each in found if each.encoding != "coo" or "coo" in encodings]
    return inside or plain or found


def _file_bytes(file: Sequence[Choice]) -> int:
    return sum(choice.cost for choice in file) + shared_bytes(
        choice.parts for choice in file
    )


def count_nonzeros(values: Array, zero: Array | None = None) -> int:
    """How many entries differ from 0, or from `zero`; both signs of zero count as zero, strings as non-zero."""
    if zero is not None:
        return int(np.count_nonzero(values != zero))
    return (
        int(values.size)
        if values.dtype.kind in "OSU"
        else int(np.count_nonzero(values != 0))
    )


def digest(array: Array) -> bytes:
    """A key for type, shape and bits of an array."""
    # Type and shape count, so that two arrays of the same bytes are not taken for each
    # other.
    head = f"{array.dtype}{array.shape}".encode()
    if array.dtype.kind in "OSU":
        return hashlib.blake2b(
            head + repr(array.tolist()).encode(), digest_size=16
        ).digest()
    # Fed from the array's own memory: `tobytes` would copy a weight of gigabytes.
    found = hashlib.blake2b(head, digest_size=16)
    found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.digest()
