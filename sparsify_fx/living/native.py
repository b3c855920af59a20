"""Where the compiled library of this package lies; loading it needs nothing but ctypes."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, cast

MISSING = (
    "the sparse kernels of sparsify_fx are missing or of another version; they need a C++17 compiler (GCC or Clang): "
    "install one and then sparsify_fx again with `pip install --force-reinstall --no-deps -v`, or in a working copy "
    "run `python setup.py build_ext --inplace`"
)
"""What errors say where the compiled library, or a function of it, is not there."""
KINDS: dict[str, Any] = {"p": ctypes.c_void_p, "n": ctypes.c_int64}
"""Arguments of our kernels, as one letter each: pointers and numbers."""


def library_file() -> Path | None:
    """The file of the compiled kernels; None where the package was installed without a C++ compiler.

    >>> found = library_file()
    >>> found is None or found.name.startswith("_kernels")
    True
    """
    for folder in _folders():
        for file in sorted(folder.glob("_kernels*.so")):
            return file
    return None


def _folders() -> Iterator[Path]:
    """The working copy's, and those of installed packages, in whose place a working copy may have been imported."""
    yield Path(__file__).parents[1] / "runtime"
    # A build leaves its egg-info in the working copy, so that the first distribution found may be the copy itself.
    for distribution in metadata.distributions(name="sparsify_fx"):
        yield Path(str(distribution.locate_file("sparsify_fx/runtime")))


@functools.cache
def loaded() -> ctypes.CDLL | None:
    """The library, loaded once; None where there is none."""
    file = library_file()
    return None if file is None else ctypes.CDLL(str(file))


def function(name: str, arguments: str) -> Callable[..., None] | None:
    """A kernel of the library that returns nothing, by its arguments as letters of KINDS.

    None without a library, and where that was built before there was this kernel.
    """
    library = loaded()
    if library is None or not hasattr(library, name):
        return None
    found: Any = getattr(library, name)
    found.restype = None
    found.argtypes = [KINDS[each] for each in arguments]
    return cast(Callable[..., None], found)
