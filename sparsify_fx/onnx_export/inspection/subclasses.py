"""Tensor subclasses of torchao, torch's 2:4 tensors and Python objects, read out of torch files without their code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from sparsify_fx.errors import CheckpointError
from sparsify_fx.onnx_export.inspection.counting import (
    Counted,
    check_size,
    count,
    dtype_text,
    nonzeros,
)
from sparsify_fx.onnx_export.inspection.packed_weights import quantized_count

_PACKAGES = ("torchao.", "torch.sparse.semi_structured.")
"""Whose classes stand-ins take the place of: their tensors are plain ones behind the names of attributes."""


class Inert:
    """Any other Python object of a file: nothing is done with it, and nothing is kept of it."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Take whatever the object was made of, and keep none of it."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Take the saved attributes, and keep none of them."""


class StandIn(Tensor):
    """A tensor in place of one of a subclass: it has the attributes that were saved, and can do nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Objects that are made of options become `Inert`; tensors are made by torch itself."""
        return Inert()  # type: ignore[return-value]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Refuse: what the subclass would compute is in its code, which does not run."""
        raise CheckpointError(
            f"{function} cannot be computed on a tensor of a subclass"
        )

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Answer for attributes, such as shape and dtype, as a plain tensor does."""
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))


@contextmanager
def stand_ins(file: Path) -> Iterator[None]:
    """Within it `torch.load` puts stand-ins in the place of what it does not know, and so runs none of its code."""
    try:
        # Before loading: which classes torch would refuse. The names are read out of
        # the pickle without importing anything.
        unknown = get_unsafe_globals_in_checkpoint(str(file))
    except Exception:  # no zip file, or a damaged one, of which torch.load will tell
        unknown = []
    named: list[Any] = [
        (StandIn if name.startswith(_PACKAGES) else Inert, name) for name in unknown
    ]
    # Allowed by name, so that torch makes our class where the file asks for theirs.
    with safe_globals([*named, Inert] if named else []):
        yield


def is_subclass(tensor: Tensor) -> bool:
    """Whether a tensor is a stand-in, or a real one of these packages, which a program that imported them gets."""
    return isinstance(tensor, StandIn) or f"{type(tensor).__module__}.".startswith(
        _PACKAGES
    )


def count_subclass(tensor: Tensor) -> Counted:
    """Count a quantized or 2:4 sparse tensor by the plain tensors that it holds.

    Raises CheckpointError for a packing that is not known.
    """
    held = vars(tensor)
    if isinstance(
        held.get("tensor_impl"), Tensor
    ):  # torchao before 0.15: one tensor inside another
        held = vars(held["tensor_impl"])
    # 1. Quantized: codes, scale and perhaps zero point, under the names of several versions.
    data, scale, zero = (
        held.get("qdata", held.get("int_data")),
        held.get("scale"),
        held.get("zero_point"),
    )
    parts = [each for each in held.values() if isinstance(each, Tensor)]
    # Every tensor that it holds, before anything is computed of them.
    for each in parts:
        check_size(each)
    stored = sum(each.nbytes for each in parts)
    if (
        isinstance(data, Tensor)
        and isinstance(scale, Tensor)
        and data.shape == tensor.shape
    ):
        beside = {
            "scale": scale,
            **({"zero_point": zero} if isinstance(zero, Tensor) else {}),
        }
        target = held.get("target_dtype")
        counted = replace(quantized_count(data, beside), bytes_stored=stored)
        return (
            replace(counted, dtype=dtype_text(target))
            if isinstance(target, torch.dtype)
            else counted
        )
    # 2. 2:4 sparse: of four entries two are stored, and which ones. A stored one may be zero as well.
    packed, meta = held.get("packed"), held.get("meta")
    if (
        isinstance(packed, Tensor)
        and isinstance(meta, Tensor)
        and 2 * packed.numel() == tensor.numel()
    ):
        found, width = nonzeros(packed), packed.element_size()
        return Counted(
            tuple(tensor.shape), dtype_text(packed.dtype), found, tensor.numel() * width, stored, "2:4", True
        )  # fmt: skip
    told = {
        name: list(each.shape)
        for name, each in held.items()
        if isinstance(each, Tensor)
    }
    raise CheckpointError(
        f"is a tensor of a subclass, {list(tensor.shape)} out of {told or 'nothing'}, whose packing is not known; "
        "save its dequantized or dense form (weight.dequantize(), weight.to_dense())"
    )


def count_any(tensor: Tensor) -> Counted:
    """Count a tensor, of a subclass or not."""
    return count_subclass(tensor) if is_subclass(tensor) else count(tensor)
