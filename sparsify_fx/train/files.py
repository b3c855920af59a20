"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file in the same folder, then put it in the place of `path`.

    Data and rename reach the disk (fsync) before this returns; after an error or a kill `path` is as before.

    Example: `write_atomically(Path("result.json"), lambda stream: stream.write(b"{}"))`.
    """
    # In the same folder, since a rename is atomic only within one file system.
    handle, temporary = tempfile.mkstemp(
        prefix=f".{path.name}.", suffix=".tmp", dir=path.parent
    )
    try:
        with os.fdopen(handle, "wb") as stream:
            write(stream)
            stream.flush()
            # Before the rename: after a power failure the new name could otherwise stand for an empty file.
            os.fsync(stream.fileno())
        # mkstemp gives 0600, with which colleagues could not read a shared run folder.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    # Also when Ctrl-C interrupts: what a kill leaves is removed by the next holder of the folder's lock.
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """`write_atomically` for text, in UTF-8."""
    write_atomically(path, lambda stream: stream.write(text.encode()))


def sync_folder(folder: Path) -> None:
    """Bring the names in `folder` to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    """The process's umask; it can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
