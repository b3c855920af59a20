"""Files that appear whole and checked, or not at all."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from sparsify_fx.errors import ExportError

T = TypeVar("T")

_LONGEST_NAME = 200
"""Bytes: file systems take 255, and the temporary file and external data beside the target have longer names."""


def check_source(path: object) -> Path:
    """The file to read; ExportError for anything that is no path, such as a model or an open file.

    >>> check_source(b"m.onnx")
    Traceback (most recent call last):
    sparsify_fx.errors.ExportError: cannot read from bytes: give the path of a file; save a model with onnx.save first
    """
    if not isinstance(path, str | os.PathLike):
        what = type(path).__name__
        raise ExportError(
            f"cannot read from {what}: give the path of a file; save a model with onnx.save first"
        )
    return Path(path)


def check_target(path: str | os.PathLike[str]) -> Path:
    """The file that `path` names, links resolved, once it is certain that it can be written.

    Raises ExportError when its folder is missing or not writable, when `path` is a folder, or an open file.

    >>> check_target("/none/m.onnx")
    Traceback (most recent call last):
    sparsify_fx.errors.ExportError: cannot write /none/m.onnx: folder /none does not exist; create it first
    """
    if not isinstance(path, str | os.PathLike):
        raise ExportError(
            f"cannot write to {type(path).__name__}: a file is checked on the disk before it appears; give a path, and "
            "read the file from there"
        )
    target = Path(path).resolve()
    folder = target.parent
    if len(os.fsencode(target.name)) > _LONGEST_NAME:
        raise ExportError(
            f"cannot write {path}: its name is too long; give one of at most {_LONGEST_NAME} bytes"
        )
    if target.is_dir():
        raise ExportError(
            f"cannot write {path}: it is a folder; give the name of a file in it, e.g. {path}/model.onnx"
        )
    if not folder.is_dir():
        raise ExportError(
            f"cannot write {path}: folder {folder} does not exist; create it first"
        )
    try:
        # Permission bits do not tell (root, read-only mounts): an unnamed file does, and leaves nothing behind.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise ExportError(
            f"cannot write {path}: folder {folder} is not writable ({reason}); choose another"
        ) from error
    return target


def write_checked(
    target: Path, data: bytes | Iterable[bytes], check: Callable[[Path], T]
) -> T:
    """Write `data` beside `target`, run `check` on that file, then rename it to `target`; returns what check returned.

    Data in several pieces is written as it comes, so that it need not be in memory as a whole.

    Whatever `check` raises passes through, with no temporary file left and an older `target` untouched.
    Raises ExportError when the disk refuses the data.
    """
    # In the same folder, since a rename is atomic within a file system alone. Process and
    # random number keep two writers apart.
    temporary = target.with_name(
        f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    )
    try:
        _write(temporary, (data,) if isinstance(data, bytes) else data)
        result = check(temporary)
        # Nothing stands under the target's name before every check has passed.
        os.replace(temporary, target)
    except OSError as error:
        raise ExportError(
            f"cannot write {target}: {error}; free some space or choose another folder"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return result


def _write(path: Path, pieces: Iterable[bytes]) -> None:
    """Create `path` with the user's usual permissions and flush it to the disk."""
    with open(path, "xb") as file:
        file.writelines(pieces)
        file.flush()
        # Otherwise a power cut after the rename can leave a file of the right name
        # without its data.
        os.fsync(file.fileno())
