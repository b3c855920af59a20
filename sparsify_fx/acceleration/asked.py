"""What `apply(kernels=...)` asks for, checked before anything of the model changes."""

from __future__ import annotations

from collections.abc import Iterable

from sparsify_fx.errors import (
    LayerError,
    MethodError,
    RuntimeLibraryError,
    unknown,
)
from sparsify_fx.living.native import MISSING
from sparsify_fx.living.products.choice import MODES
from sparsify_fx.living.products.native import is_there
from sparsify_fx.programs.products import has_products
from sparsify_fx.programs.selection import Layer

DENSE = "dense"
KERNELS = (DENSE, *MODES)


def check_kernels(kernels: str, storage: str) -> None:
    """Refuse what no model could be given.

    Raises:
        MethodError: other kernels than `KERNELS`, or sparse ones for storage="full".
        RuntimeLibraryError: the package was installed without its compiled kernels.

    >>> check_kernels("auto", "living")
    """
    if kernels not in KERNELS:
        raise MethodError(unknown("kernels", str(kernels), KERNELS))
    if kernels == DENSE:
        return
    if storage == "full":
        raise MethodError(
            f"kernels={kernels!r} reads the entries of weights in living storage, and storage='full' keeps none; use "
            "storage='living' or 'auto', or leave kernels= out"
        )
    check_library()


def check_library() -> None:
    """Raises RuntimeLibraryError where the package was installed without its compiled kernels."""
    if not is_there():
        raise RuntimeLibraryError(MISSING)


def check_takers(kernels: str, living: Iterable[Layer]) -> None:
    """Raises LayerError where sparse kernels are asked for and none of these weights, in living storage, takes them."""
    if kernels == DENSE:
        return
    if not any(map(_takes, living)):
        raise LayerError(
            f"kernels={kernels!r}: no layer of this model can use sparse kernels under this method; they take "
            "convolutions (1d, 2d) and linear layers whose masks are there while they train and whose parameterization "
            "makes each entry by itself; leave kernels= out"
        )


def _takes(layer: Layer) -> bool:
    return any(has_products(owner) for owner, _ in layer.places)
