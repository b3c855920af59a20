"""What kind of file something is, by its content; the suffix only decides where the content says nothing."""

from __future__ import annotations

import codecs
import json
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsify_fx.onnx_export.files.protobuf_kinds import protobuf_kind

READABLE = {"onnx", "safetensors", "torch", "index"}
"""Kinds that `inspect_file` reads; `index`: the JSON file that names the shards of a checkpoint."""

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


@dataclass(frozen=True)
class Kind:
    """A kind of file: its name in a sentence (with article), and what the user can do; READABLE ones need neither."""

    name: str
    remedy: str = ""


_SAVE = "save model.state_dict() with torch.save or safetensors and give that file, or export to ONNX"
_UNPACK = "unpack it and give a file inside"
_NO_MODEL = "give an .onnx, .safetensors, .pt or .pth file"

TORCHSCRIPT = Kind("a TorchScript archive", f"load it with torch.jit.load, {_SAVE}")
PT2 = Kind(
    "a torch.export program (.pt2)",
    "load it with torch.export.load and save program.state_dict, or export to ONNX",
)
NUMPY = Kind(
    "a numpy file",
    "load it with numpy.load and save the arrays by name with safetensors.numpy.save_file",
)
KERAS = Kind(
    "a Keras model",
    "convert it to ONNX with tf2onnx, or save model.get_weights() with safetensors.numpy",
)
ZIP = Kind("a zip archive", _UNPACK)
LFS = Kind("a Git LFS pointer, not the file itself", "fetch the file: git lfs pull")
GGUF = Kind(
    "a GGUF file",
    "its blocks of quantized weights are not read; give the safetensors files it was made of",
)
ZLIB = Kind(
    "a file packed with zlib, such as joblib writes",
    "save the model's arrays with safetensors, or as ONNX",
)
TENSORFLOW = Kind("a TensorFlow graph or SavedModel", "convert it to ONNX with tf2onnx")
PICKLE = Kind(
    "a pickle of Python objects, which are not loaded because that could run code",
    "save model.state_dict() or the arrays with safetensors, or convert the model to ONNX (scikit-learn: skl2onnx)",
)
JSON = Kind("a JSON file", "give the file with the weights beside it")
HTML = Kind(
    "an HTML page, perhaps an error page in place of a download",
    "download the file again",
)
XML = Kind(
    "an XML file",
    f"{_NO_MODEL}; of an OpenVINO model give the ONNX file it was made of",
)
ONNX_TEXT = Kind(
    "a model in ONNX's text form",
    "read it with onnx.parser.parse_model and save it with onnx.save",
)
TEXT = Kind("a text file", _NO_MODEL)

_SIGNATURES: Sequence[tuple[int, bytes, Kind | str]] = (
    (0, b"version https://git-lfs", LFS),
    (0, b"# xet version", LFS),
    (0, b"GGUF", GGUF),
    (0, b"tjgg", GGUF),
    (0, b"lmgg", GGUF),
    (
        0,
        b"\x89HDF\r\n\x1a\n",
        Kind("an HDF5 file (Keras weights, or data)", KERAS.remedy),
    ),
    (0, b"\x93NUMPY", NUMPY),
    (
        4,
        b"TFL3",
        Kind(
            "a TensorFlow Lite model",
            "give the model it was made of, converted to ONNX with tf2onnx",
        ),
    ),
    (
        4,
        b"ORTM",
        Kind("an .ort file of onnxruntime", "give the .onnx file it was made of"),
    ),
    (
        4,
        b"ET",
        Kind(
            "an ExecuTorch program",
            "give the model it was made of: its state_dict, or an ONNX file",
        ),
    ),
    (
        0,
        b"\x1f\x8b",
        Kind("a gzip archive", "unpack it (gunzip, tar -xzf) and give the file inside"),
    ),
    (0, b"BZh", Kind("a bzip2 archive", _UNPACK)),
    (0, b"\xfd7zXZ\x00", Kind("an xz archive", _UNPACK)),
    (0, b"\x28\xb5\x2f\xfd", Kind("a zstd archive", _UNPACK)),
    (0, b"7z\xbc\xaf\x27\x1c", Kind("a 7z archive", _UNPACK)),
    (0, b"Rar!", Kind("a rar archive", _UNPACK)),
    (
        257,
        b"ustar",
        Kind("a tar archive", "unpack it (tar -xf) and give a file inside"),
    ),
    (0, b"PAR1", Kind("a Parquet table", _NO_MODEL)),
    (0, b"SQLite format 3\x00", Kind("an SQLite database", _NO_MODEL)),
    (0, b"\x89PNG", Kind("an image", _NO_MODEL)),
    (0, b"\xff\xd8\xff", Kind("an image", _NO_MODEL)),
    (0, b"%PDF", Kind("a PDF document", _NO_MODEL)),
    (0, b"\x7fELF", Kind("a program or shared library", _NO_MODEL)),
    (0, b"MZ\x90\x00", Kind("a program or shared library", _NO_MODEL)),
)


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
    for offset, signature, kind in _SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return kind
    by_suffix = _BY_SUFFIX.get(file.suffix.lower())
    return _by_structure(file, head) or by_suffix


def _by_structure(file: Path, head: bytes) -> Kind | str | None:
    """Kinds that are known by more than some fixed bytes."""
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_kind(file, head)
    if head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= _SAFETENSORS_LIMIT:
        return "safetensors"
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return "torch" if _TORCH_MAGIC in head[:20] else _pickle_kind(file)
    if _is_zlib(head):
        return ZLIB
    found = protobuf_kind(file)
    return _text_kind(file, head) or (_PROTOBUF[found] if found else None)


def _is_zlib(head: bytes) -> bool:
    """Whether the first bytes unpack: two bytes alone could be anything."""
    try:
        return head[:1] == b"x" and bool(zlib.decompressobj().decompress(head, 64))
    except zlib.error:
        return False


_PROTOBUF: dict[str, Kind | str] = {
    "onnx": "onnx",
    "tensorflow": TENSORFLOW,
    "paddle": Kind("a PaddlePaddle program", "convert it to ONNX with paddle2onnx"),
    "coreml": Kind(
        "a Core ML model",
        "give the model it was made of: its state_dict, or an ONNX file",
    ),
    "caffe": Kind("a Caffe model", "convert it to ONNX"),
}

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
    if unpacked > _MOST_UNPACKED * file.stat().st_size:
        return Kind(
            f"{ZIP.name} that unpacks to {unpacked:,} bytes",
            "nothing in it is read; download it again",
        )
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
        _UNPACK if names else _NO_MODEL,
    )


def _pickle_kind(file: Path) -> Kind:
    """With the class of what is pickled, where the first opcodes name one."""
    name = None
    try:
        with file.open("rb") as stream:
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
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError:
        return None
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
        Kind("a YAML file", _NO_MODEL)
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
