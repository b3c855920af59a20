"""What a report tells besides its numbers: runtimes, signs of zeros, inputs that are no more, zeros that stay."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import onnx
from numpy.typing import NDArray

from sparsify_fx.onnx_export.files.tensors import TensorReader
from sparsify_fx.onnx_export.profiles import Profile
from sparsify_fx.onnx_export.report.rows import SPARSE, LayerRow
from sparsify_fx.onnx_export.storage.codecs.choosing import count_nonzeros
from sparsify_fx.onnx_export.storage.encodings import Encoded
from sparsify_fx.onnx_export.storage.origins import Moved
from sparsify_fx.onnx_export.storage.packable import PACKED_TYPES, SMALL, dtype_name
from sparsify_fx.onnx_export.storage.quantized import (
    kept_inside,
    names_of_points,
    zero_points_by_place,
)
from sparsify_fx.onnx_tools.constants import Constant, constants, outputs_of, scopes

WHERE_EQUAL = "where equal"
"""For -0.0: stored as 0.0 if the outputs are the same."""

_MOSTLY = 0.5  # the share of zeros from which a tensor should have been packed


def about_runtime(profile: Profile, opset: int) -> tuple[str, ...]:
    """What is to be known of the runtime that a file of this opset is for."""
    newest = profile.newest_opset
    notes = [profile.note] if profile.note else []
    if newest is not None and opset > newest:
        notes.append(
            f"the model has opset {opset}, and {profile.runs_in} {profile.checked} was tried with {newest} at most; "
            f"if it refuses the file, export with opset={newest}"
        )
    return tuple(notes)


def about_signs(count: int, drop: bool | str, *, told: bool) -> Iterator[str]:
    """What became of `count` zeros that are -0.0; `told`: that they were kept has been said."""
    if count and drop == WHERE_EQUAL:
        yield (
            f"{count:,} zeros are -0.0 and were stored as 0.0, which changes none of the outputs that were compared; "
            "pass normalize_zeros=False (--keep-negative-zeros) to keep their signs"
        )
    elif count and not drop:
        why = "" if told else ", to keep every bit"
        yield (
            f"{count:,} weights are -0.0 and were stored like other values{why}; pass normalize_zeros=True "
            "(--normalize-zeros) to store them as zeros"
        )


def about_quantized(rows: Iterable[LayerRow]) -> Iterator[str]:
    """Which weights of quantized layers sparse operators have taken over, and which compute in integers as before."""
    quantized = [row for row in rows if row.is_quantized]
    held = [row.name for row in quantized if row.encoding == SPARSE]
    stay = [row.name for row in quantized if row.encoding != SPARSE and row.zeros]
    if held:
        yield (
            f"{len(held)} quantized layers ({_some(held)}) became sparse operators that compute in float32 between "
            "activations in 8 bits, with the same weights in 8 bits: outputs differ from those in integers by rounding"
        )
    if stay:
        yield (
            f"{len(stay)} quantized weights ({_some(stay)}) stay in their layers, which compute in integers as before, "
            "and are stored without their zeros. Of the model before it was quantized, values='int8' (--values int8) "
            "makes sparse layers with int8 weights"
        )


def about_inputs(moved: Moved, ir_version: int) -> Iterator[str]:
    """Which weights callers could replace before, and cannot any more."""
    names = [name for name, origin in moved.origins.items() if origin.input]
    if names and ir_version >= 4:
        yield (
            f"{len(names)} packed weights were inputs with a default value, which callers could replace "
            f"({_some(names)}); in this file they are constants, and `unpack` makes them inputs again"
        )


def about_kept_zeros(encoded: Encoded, reader: TensorReader) -> Iterator[str]:
    """Which tensors that are mostly zeros stay as they are, and why."""
    rows = {row.name: row for row in encoded.rows}
    outputs: set[str] = set()
    for scope in scopes(encoded.model):
        outputs |= outputs_of(scope.body)
    # Zero points and scales may be mostly zeros, and are no weights.
    points, inside = names_of_points(encoded.model), kept_inside(encoded.model)
    zeros = zero_points_by_place(encoded.model, reader.array)
    found: dict[str, list[str]] = defaultdict(list)
    for each in constants(encoded.model):
        if (
            not isinstance(each.tensor, onnx.TensorProto)
            or reader.size(each.tensor) <= SMALL
            or each.name in points
        ):
            continue
        ours = (
            each.scope == 0 and each.node is None and each.name not in rows
        )  # a part of what rebuilds a weight
        if ours:
            continue
        # 1. Quantized weights in branches, whose zero may be another number.
        place = each.scope, each.name
        if (
            place in inside
            and _zeros(reader.array(each.tensor), zeros.get(place)) > _MOSTLY
        ):
            found[_INSIDE].append(each.name)
        elif why := _why_kept(each, rows.get(each.name), outputs, reader):
            found[why].append(each.name)
    for why, names in found.items():
        yield f"{len(names)} tensors that are mostly zeros stay as they are ({_some(names)}): {why}"


def _why_kept(
    each: Constant, row: LayerRow | None, outputs: Collection[str], reader: TensorReader
) -> str:
    """Why a tensor that is mostly zeros is not packed; empty for all others."""
    tensor = each.tensor
    assert isinstance(tensor, onnx.TensorProto)
    if tensor.data_type not in (*PACKED_TYPES, *_OTHER_WEIGHTS):
        return ""
    # 2. Types that no codec packs, outputs, and what is smaller as it is.
    zeros = row.sparsity if row is not None else _zeros(reader.array(tensor))
    if zeros <= _MOSTLY or (row is not None and row.encoding != "dense"):
        return ""
    if tensor.data_type in _OTHER_WEIGHTS:
        return f"{dtype_name(tensor.data_type)} is not packed"
    if each.name in outputs:
        return "they give a graph or a function its outputs"
    return "none of the encodings that may be used here is smaller"


_INSIDE = (
    "onnxruntime does not load quantized matrix products in branches or loops "
    "whose weights come from outside of these"
)

_OTHER_WEIGHTS = tuple(
    onnx.TensorProto.DataType.Value(name)
    for name in (
        "BFLOAT16",
        "INT4",
        "UINT4",
        "INT16",
        "FLOAT8E4M3FN",
        "FLOAT8E5M2",
        "FLOAT4E2M1",
        "INT2",
        "UINT2",
    )
    if name in set(onnx.TensorProto.DataType.keys())
)


def _zeros(array: NDArray[Any], zero: NDArray[Any] | None = None) -> float:
    """The share of zeros; `zero`: what stands for it."""
    return 1 - count_nonzeros(array, zero) / array.size if array.size else 0.0


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(map(repr, names[:most])) + (", ..." if len(names) > most else "")
