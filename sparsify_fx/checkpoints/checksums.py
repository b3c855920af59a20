"""Checksums inside checkpoint files, so that a single flipped bit anywhere in one is found before it is loaded.

torch.load compares no checksum: neither the CRCs of its zip archive, nor anything about the archive's own tables.
The checksum lies in the comment that ends every zip archive, and covers all bytes before it.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

_MARK = b"sparsify_fx blake2b "
# Bytes.
_DIGEST_SIZE = 16
_SEAL = len(_MARK) + 2 * _DIGEST_SIZE
_LENGTH = struct.pack("<H", _SEAL)
# The record that ends a zip archive; its last two bytes are the length of the comment.
_END, _END_SIZE = b"PK\x05\x06", 22
_CHUNK = 1 << 20


class SealingStream:
    """A stream that `torch.save` writes a zip archive to; `seal` then adds the comment with the checksum.

    After a failed write, such as on a full disk, it takes everything in silence and `seal` raises that error:
    torch's writer would raise an error of its own instead.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._held = stream, b""
        self._seen = hashlib.blake2b(digest_size=_DIGEST_SIZE)
        self._error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Write all but the last bytes, which may be the record that `seal` changes."""
        view = memoryview(data).cast("B")
        # Small writes are joined with what is held back: the record may arrive in several of them.
        if len(view) < _END_SIZE:
            joined = self._held + view.tobytes()
            self._emit(joined[:-_END_SIZE])
            self._held = joined[-_END_SIZE:]
        else:
            self._emit(self._held)
            self._emit(view[:-_END_SIZE])
            self._held = view[-_END_SIZE:].tobytes()
        return len(view)

    def flush(self) -> None:
        """Nothing: `seal` writes what is held back."""

    def seal(self) -> None:
        """End the file; OSError when it could not be written."""
        # The two zeros are the length of the comment: another one is there already, or this is no zip archive.
        if self._error is None and not (
            self._held.startswith(_END) and self._held.endswith(b"\0\0")
        ):
            raise ValueError("only a zip archive without a comment can be sealed")
        # Zip readers skip a comment whose length the record names: torch.load reads the file as before.
        self._emit(self._held[:-2] + _LENGTH)
        self._emit(_MARK + self._seen.hexdigest().encode())
        if self._error is not None:
            raise self._error

    def _emit(self, data: bytes | memoryview) -> None:
        if self._error is None:
            try:
                self._stream.write(data)
            except OSError as error:
                self._error = error
            self._seen.update(data)


def is_sealed(path: Path) -> bool:
    """Whether a file ends with our checksum, be that damaged or not. OSError when it cannot be read."""
    with path.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - _SEAL - _END_SIZE))
        tail = stream.read()
    length, comment = tail[_END_SIZE - 2 : _END_SIZE], tail[_END_SIZE:]
    # Two of three signs, since a flipped bit may have destroyed one.
    return (
        tail.startswith(_END) + (length == _LENGTH) + comment.startswith(_MARK)
    ) >= 2


def damage(path: Path) -> str | None:
    """What is wrong with a zip archive, or None.

    A sealed one is compared with its checksum. One without a comment, as sparsify_fx 0.1 and torch.save write it, has
    the CRC of every part compared. OSError when it cannot be read.
    """
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - _SEAL - _END_SIZE))
        tail = stream.read()
        # 1. A plain archive, as torch.save leaves it.
        if tail[-_END_SIZE:].startswith(_END) and tail.endswith(b"\0\0"):
            return _bad_crc(path)
        # 2. Anything else must be sealed, sign by sign: a flipped bit in one of them is damage.
        comment = tail[_END_SIZE:]
        if not (
            tail.startswith(_END)
            and comment.startswith(_MARK)
            and tail[_END_SIZE - 2 : _END_SIZE] == _LENGTH
        ):
            return "it does not end as a torch file does"
        # 3. All bytes before the comment's text, the archive's own tables included.
        seen = hashlib.blake2b(digest_size=_DIGEST_SIZE)
        stream.seek(0)
        left = size - _SEAL
        while chunk := stream.read(min(_CHUNK, left)):
            seen.update(chunk)
            left -= len(chunk)
    return (
        None
        if comment.removeprefix(_MARK) == seen.hexdigest().encode()
        else "its checksum differs"
    )


def _bad_crc(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except OSError:
        raise
    except Exception as error:  # a damaged table fails anywhere in the reader: ValueError, struct.error, KeyError, ...
        return f"{error or type(error).__name__}"
    return None if bad is None else f"the CRC of {bad} differs"
