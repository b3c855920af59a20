"""Where the compiled library lies, and sessions that use it."""

from __future__ import annotations

import ctypes
import os

import onnxruntime

from sparsify_fx.errors import RuntimeLibraryError
from sparsify_fx.living.native import MISSING, library_file
from sparsify_fx.runtime.coded.weights import FORMAT

_OLD = (
    "these weights are in format {needed}, and the library of sparse operators is of an older version, which reads up "
    "to {found}: install sparsify_fx again with `pip install --force-reinstall --no-deps -v`, or in a working copy run "
    "`python setup.py build_ext --inplace`; files with values='fp32' are in format 1"
)


def library() -> str:
    """The path of the library of sparse operators, for `SessionOptions.register_custom_ops_library`.

    Any onnxruntime from 1.17 on can load it, in every language: `RegisterCustomOpsLibrary` in C and C++,
    `RegisterCustomOpLibraryV2` in C#, `registerCustomOpLibrary` in Java.

    Raises RuntimeLibraryError when the package was installed without it.

    >>> options = onnxruntime.SessionOptions()
    >>> options.register_custom_ops_library(library())
    """
    found = library_file()
    if found is None:
        raise RuntimeLibraryError(MISSING)
    return str(found)


def instruction_set() -> str:
    """Which kernels run on this processor: `avx512`, `avx2`, `neon` or `portable`.

    The environment variable SPARSIFY_FX_ISA, set before the first use, takes lesser ones than the best.

    >>> instruction_set() in ("avx512", "avx2", "neon", "portable")
    True
    """
    function = ctypes.CDLL(library()).sparsify_fx_instruction_set
    function.restype = ctypes.c_char_p
    name: bytes = function()
    return name.decode()


def newest_format() -> int:
    """The newest format of weights that the library reads: 1 is float32 values alone, 2 all kinds.

    Raises RuntimeLibraryError when the package was installed without it.

    >>> newest_format() >= 1
    True
    """
    try:
        function = ctypes.CDLL(library()).sparsify_fx_newest_format
    # The first libraries read one format, and say nothing of it.
    except AttributeError:
        return 1
    return int(function())


def check_library(needed: int = 1) -> str:
    """The path of the library, if it reads weights in the format `needed`; else RuntimeLibraryError says what to do."""
    if needed > 1 and (found := newest_format()) < needed:
        raise RuntimeLibraryError(_OLD.format(needed=needed, found=found))
    return library()


def session(
    path: str | os.PathLike[str],
    *,
    threads: int = 0,
    options: onnxruntime.SessionOptions | None = None,
) -> onnxruntime.InferenceSession:
    """An onnxruntime session on the CPU that knows the sparse operators.

    Args:
        path: an ONNX file, with sparse operators or without.
        threads: how many threads an operator may use; 0 leaves that to onnxruntime (one per core).
        options: further settings; the library is registered with them, and `threads`, if not 0, is set in them.

    Raises RuntimeLibraryError without the library or with one that is older than the file, and what onnxruntime raises
    for a file that it does not take.
    """
    chosen = onnxruntime.SessionOptions() if options is None else options
    if threads:
        chosen.intra_op_num_threads = threads
    chosen.register_custom_ops_library(library())
    try:
        return onnxruntime.InferenceSession(
            os.fspath(path), chosen, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        # What onnxruntime says of weights in bytes where a library takes float32 alone.
        if "tensor(uint8)" in str(error) and "sparse" in str(error).lower():
            check_library(FORMAT)
        raise
