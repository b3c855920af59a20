"""Which kind of file something is, by its content; the suffix only decides where the content says nothing."""

from __future__ import annotations

import codecs
import json
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from sparsify_fx.onnx_export.files.kinds import (
    HTML,
    JSON,
    KERAS,
    NO_MODEL,
    NUMPY,
    ONNX_TEXT,
    PICKLE,
    PROTOBUF,
    PT2,
    SIGNATURES,
    TEXT,
    TORCHSCRIPT,
    UNPACK,
    XML,
    ZIP,
    ZLIB,
    Kind,
)
from sparsify_fx.onnx_export.files.protobuf_kinds import protobuf_kind

_HEAD = 4096  # bytes that are looked at

_BY_SUFFIX = {
    ".onnx": "onnx",
    ".safetensors": "safetensors",
    ".pt": "torch",
    ".pth": "torch",
    ".ckpt": "torch",
}
_BY_SUFFIX |= {".bin": "torch"}  # of the Hugging Face hub

_TORCH_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # a pickled number, with which torch files before 1.6 begin

_SAFETENSORS_LIMIT = 100_000_000  # bytes of a header

_MOST_UNPACKED = 100  # times the size of an archive

_INDEX_LIMIT = 20_000_000  # bytes of JSON


def kind_of(file: Path) -> Kind | str | None:
    """A key of READABLE, a Kind that is not read, or None for bytes that nothing here knows. OSError: not readable.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "model.onnx")
    ...     _ = file.write_bytes(b"GGUF" + bytes(20))
    ...     kind_of(file).name
    'a GGUF file'
    """
    with file.open("rb") as stream:
        head = stream.read(_HEAD)

    # 1. Bytes at fixed places settle it. They go before the suffix, which downloads and
    # other tools often give wrongly.
    for offset, signature, kind in SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return kind

    # 2. What has no signature is known by its structure; only where that says nothing
    # does the suffix count.
    by_suffix = _BY_SUFFIX.get(file.suffix.lower())
    return _by_structure(file, head) or by_suffix


def _by_structure(file: Path, head: bytes) -> Kind | str | None:
    """Kinds that are known by more than some fixed bytes."""
    # torch, TorchScript, Keras and numpy all write zip archives: the names inside tell
    # them apart.
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_kind(file, head)
    # safetensors begins with the length of a JSON header. Of any 8 bytes most are no such
    # length.
    if head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= _SAFETENSORS_LIMIT:
        return "safetensors"
    # A pickle says its protocol first. It is only looked at, never loaded: that would run
    # what it holds.
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return "torch" if _TORCH_MAGIC in head[:20] else _pickle_kind(file)
    if _is_zlib(head):
        return ZLIB
    # Text goes before protobuf, as whose fields a short text may parse by chance.
    found = protobuf_kind(file)
    return _text_kind(file, head) or (PROTOBUF[found] if found else None)


def _is_zlib(head: bytes) -> bool:
    """Whether the first bytes unpack: two bytes alone could be anything."""
    try:
        return head[:1] == b"x" and bool(zlib.decompressobj().decompress(head, 64))
    except zlib.error:
        return False


_ZIPS: Sequence[tuple[Callable[[set[str]], bool], Kind | str]] = (
    (lambda names: "constants.pkl" in names and "data.pkl" in names, TORCHSCRIPT),
    (
        lambda names: (
            "archive_format" in names or "serialized_exported_program.json" in names
        ),
        PT2,
    ),
    (lambda names: "data.pkl" in names, "torch"),
    (lambda names: "model.weights.h5" in names, KERAS),
    (lambda names: all(name.endswith(".npy") for name in names), NUMPY),
)
"""By the names of files in a zip archive, without the folder that holds all of them."""


def _zip_kind(file: Path, head: bytes) -> Kind | str:
    try:
        with zipfile.ZipFile(file) as archive:
            whole = archive.namelist()
            unpacked = sum(info.file_size for info in archive.infolist())
    except OSError:
        raise
    except Exception:  # a damaged table fails anywhere in the reader; the first name is at the start of the file
        length = struct.unpack("<H", head[26:28].ljust(2, b"\0"))[0]
        first = head[30 : 30 + length].decode("utf-8", "replace")
        return NUMPY if first.endswith(".npy") else "torch"
    # A few kilobytes can claim to unpack to terabytes; weights, pruned ones too, shrink
    # far less.
    if unpacked > _MOST_UNPACKED * file.stat().st_size:
        return Kind(
            f"{ZIP.name} that unpacks to {unpacked:,} bytes",
            "nothing in it is read; download it again",
        )
    # torch puts everything in a folder that has the file's name, others put nothing in
    # one.
    names = {name for name in whole if not name.endswith("/")}
    if (
        names
        and len({name.partition("/")[0] for name in names}) == 1
        and all("/" in name for name in names)
    ):
        names = {name.partition("/")[2] for name in names}
    found = next((kind for matches, kind in _ZIPS if names and matches(names)), None)
    if found is not None:
        return found
    listed = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
    return Kind(
        f"{ZIP.name} of other files ({listed or 'none'})",
        UNPACK if names else NO_MODEL,
    )


def _pickle_kind(file: Path) -> Kind:
    """With the class of what is pickled, where the first opcodes name one."""
    name = None
    try:
        with file.open("rb") as stream:
            # STACK_GLOBAL takes module and name from the stack: they are the last two
            # strings before it.
            strings: list[str] = []
            for _, (opcode, argument, _) in zip(
                range(200), pickletools.genops(stream), strict=False
            ):
                if opcode.name in ("SHORT_BINUNICODE", "BINUNICODE"):
                    strings.append(str(argument))
                elif opcode.name in ("GLOBAL", "STACK_GLOBAL"):
                    name = (
                        str(argument).replace(" ", ".")
                        if opcode.name == "GLOBAL"
                        else ".".join(strings[-2:])
                    )
                    break
    except Exception:  # a damaged pickle fails anywhere
        name = None
    return (
        Kind(f"{PICKLE.name} (it begins with {name[:80]})", PICKLE.remedy)
        if name
        else PICKLE
    )


def _text_kind(file: Path, head: bytes) -> Kind | str | None:
    """JSON, HTML, XML or other text; None for bytes that are no text."""
    try:
        # Incrementally, since the head may end in the middle of a character.
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError:
        return None
    # Binary data may be valid UTF-8 by chance, but seldom without any control character.
    if any(letter < " " and letter not in "\t\n\r\f\x1b" for letter in text):
        return None
    start = text.lstrip().lower()
    if start.startswith(("{", "[")):
        return "index" if is_index(file) else JSON
    if start.startswith(("<!doctype html", "<html", "<head", "<body")):
        return HTML
    if start.startswith("<") and "ir_version" in start:
        return ONNX_TEXT
    if start.startswith(("<?xml", "<net")):
        return XML
    return (
        Kind("a YAML file", NO_MODEL)
        if file.suffix.lower() in (".yaml", ".yml")
        else TEXT
    )


def is_index(file: Path) -> bool:
    """Whether a JSON file names the shards of a checkpoint: an object with a `weight_map`."""
    try:
        content = (
            json.loads(file.read_bytes())
            if file.stat().st_size <= _INDEX_LIMIT
            else None
        )
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and isinstance(content.get("weight_map"), dict)
