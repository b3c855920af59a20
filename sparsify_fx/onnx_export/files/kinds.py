"""The kinds of files: what each is called, what the user can do with it, and the bytes it begins with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

READABLE = {"onnx", "safetensors", "torch", "index"}
"""Kinds that `inspect_file` reads; `index`: the JSON file that names the shards of a checkpoint."""


@dataclass(frozen=True)
class Kind:
    """A kind of file: its name in a sentence (with article), and what the user can do; READABLE ones need neither."""

    name: str
    remedy: str = ""


_SAVE = "save model.state_dict() with torch.save or safetensors and give that file, or export to ONNX"

UNPACK = "unpack it and give a file inside"

NO_MODEL = "give an .onnx, .safetensors, .pt or .pth file"

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

ZIP = Kind("a zip archive", UNPACK)

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
    f"{NO_MODEL}; of an OpenVINO model give the ONNX file it was made of",
)

ONNX_TEXT = Kind(
    "a model in ONNX's text form",
    "read it with onnx.parser.parse_model and save it with onnx.save",
)

TEXT = Kind("a text file", NO_MODEL)

SIGNATURES: Sequence[tuple[int, bytes, Kind | str]] = (
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
    (0, b"BZh", Kind("a bzip2 archive", UNPACK)),
    (0, b"\xfd7zXZ\x00", Kind("an xz archive", UNPACK)),
    (0, b"\x28\xb5\x2f\xfd", Kind("a zstd archive", UNPACK)),
    (0, b"7z\xbc\xaf\x27\x1c", Kind("a 7z archive", UNPACK)),
    (0, b"Rar!", Kind("a rar archive", UNPACK)),
    (
        257,
        b"ustar",
        Kind("a tar archive", "unpack it (tar -xf) and give a file inside"),
    ),
    (0, b"PAR1", Kind("a Parquet table", NO_MODEL)),
    (0, b"SQLite format 3\x00", Kind("an SQLite database", NO_MODEL)),
    (0, b"\x89PNG", Kind("an image", NO_MODEL)),
    (0, b"\xff\xd8\xff", Kind("an image", NO_MODEL)),
    (0, b"%PDF", Kind("a PDF document", NO_MODEL)),
    (0, b"\x7fELF", Kind("a program or shared library", NO_MODEL)),
    (0, b"MZ\x90\x00", Kind("a program or shared library", NO_MODEL)),
)

PROTOBUF: dict[str, Kind | str] = {
    "onnx": "onnx",
    "tensorflow": TENSORFLOW,
    "paddle": Kind("a PaddlePaddle program", "convert it to ONNX with paddle2onnx"),
    "coreml": Kind(
        "a Core ML model",
        "give the model it was made of: its state_dict, or an ONNX file",
    ),
    "caffe": Kind("a Caffe model", "convert it to ONNX"),
}
