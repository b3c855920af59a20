"""Ways to damage a file: by its bytes, as disks and networks do, and by its fields, as bad writers do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]

NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    7,
    127,
    255,
    2**15,
    2**31 - 1,
    2**31,
    -(2**31),
    2**40,
    2**62,
    2**63 - 1,
    -(2**63),
)
TEXTS = (
    "",
    "x",
    "y",
    "w",
    "Loop",
    "Identity",
    "If",
    "../w",
    "sparsify_fx",
    "MatMul",
    "{}",
    "[[",
    "gap fp32",
    "\x00",
)


def damaged(seed: Path, folder: Path, rng: np.random.Generator) -> Path:
    """A copy of the seed's folder with one file in it damaged; the path of the model."""
    for each in seed.iterdir():
        shutil.copy(each, folder / each.name)
    model = next(
        each
        for each in sorted(folder.iterdir())
        if each.stem == "model" and each.suffix != ".data"
    )
    if model.suffix == ".onnx" and rng.random() < 0.6:
        _by_fields(model, rng)
    else:
        files = sorted(folder.iterdir())
        victim = files[rng.integers(len(files))]
        victim.write_bytes(_by_bytes(victim.read_bytes(), rng))
    return model


def _by_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """A few of the things that happen to bytes."""
    ways: tuple[Callable[[bytearray, np.random.Generator], bytearray], ...] = (
        _flip,
        _write,
        _cut,
        _double,
        _insert,
    )
    found = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        if found:
            found = ways[rng.integers(len(ways))](found, rng)
    return bytes(found)


def _flip(data: bytearray, rng: np.random.Generator) -> bytearray:
    for at in rng.integers(0, len(data), int(rng.integers(1, 9))):
        data[at] ^= 1 << int(rng.integers(8))
    return data


def _write(data: bytearray, rng: np.random.Generator) -> bytearray:
    start, size = int(rng.integers(len(data))), int(rng.integers(1, 33))
    data[start : start + size] = rng.bytes(min(size, len(data) - start))
    return data


def _cut(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data[: rng.integers(len(data))]


def _double(data: bytearray, rng: np.random.Generator) -> bytearray:
    start, end = sorted(rng.integers(0, len(data), 2))
    return data[:end] + data[start:]


def _insert(data: bytearray, rng: np.random.Generator) -> bytearray:
    at = int(rng.integers(len(data)))
    return data[:at] + rng.bytes(int(rng.integers(1, 9))) + data[at:]


def _by_fields(file: Path, rng: np.random.Generator) -> None:
    """One to three fields of the model, wherever they lie, get another value, go, or come twice."""
    model = onnx.ModelProto.FromString(file.read_bytes())
    for _ in range(int(rng.integers(1, 4))):
        fields = list(_fields(model))
        message, field = fields[rng.integers(len(fields))]
        try:
            _change(message, field, rng)
        except (TypeError, ValueError, DecodeError):
            continue  # a value that this field cannot hold
    file.write_bytes(model.SerializeToString())


def _fields(message: Message) -> Any:
    """(message, field) for every field that is set, in this message and in all inside it."""
    for field, value in message.ListFields():
        yield message, field
        if field.type == field.TYPE_MESSAGE:
            for inner in value if hasattr(value, "extend") else (value,):
                yield from _fields(inner)


def _change(message: Message, field: Any, rng: np.random.Generator) -> None:
    value = getattr(message, field.name)
    if not hasattr(value, "extend"):
        if rng.random() < 0.2 or field.type == field.TYPE_MESSAGE:
            message.ClearField(field.name)
        else:
            setattr(message, field.name, _other(value, field, rng))
        return
    at, what = int(rng.integers(len(value))), rng.integers(3)
    if what == 0:
        del value[at]
    elif field.type == field.TYPE_MESSAGE:
        copied = type(value[at])()
        copied.CopyFrom(value[rng.integers(len(value))])
        value.insert(at, copied)
    elif what == 1:
        value[at] = _other(value[at], field, rng)
    else:
        value.append(value[rng.integers(len(value))])


def _other(value: Any, field: Any, rng: np.random.Generator) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool | int):
        return (
            int(NUMBERS[rng.integers(len(NUMBERS))])
            if rng.random() < 0.7
            else int(value) + int(rng.integers(-3, 4))
        )
    if isinstance(value, float):
        return float(rng.choice([0.0, -1.0, np.inf, np.nan, 1e38]))
    if isinstance(value, bytes):
        return _by_bytes(value, rng)
    return str(TEXTS[rng.integers(len(TEXTS))])
