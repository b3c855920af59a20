"""Which message a protobuf file holds, by the fields at its top: none of them has a signature."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_MOST = 20_000  # fields that are looked at
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_ONNX = {*range(1, 9), 14, 20, 25, 26}
"""The fields of ModelProto; 7 is the graph."""
_ONNX_NUMBERS = {1, 5}
_GRAPH, _CORE_ML_FIRST, _CAFFE_LAYER = 7, 200, 100


def protobuf_kind(file: Path) -> str | None:
    """`onnx`, `tensorflow`, `paddle`, `coreml` or `caffe`; None for other bytes."""
    with file.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        fields = list(_fields(stream, size))
    if not fields:
        return None
    # None of these formats has a signature, so they are told by which fields lie at the
    # top, and of which wire type.
    wires = {number: wire for number, wire, _ in fields}
    first = {number: begin for number, _, begin in reversed(fields)}
    if wires.get(_GRAPH) == _BYTES and all(
        number in _ONNX and (wire == _VARINT) == (number in _ONNX_NUMBERS)
        for number, wire, _ in fields
    ):
        return "onnx"
    # A SavedModel has a version, then meta graphs; a Core ML model a version, a
    # description, and its kind from field 200 on.
    if wires.get(1) == _VARINT and wires.get(2) == _BYTES and first[2][:1] == b"\n":
        if max(wires) >= _CORE_ML_FIRST:
            return "coreml"
        return "tensorflow" if wires.keys() <= {1, 2} else None
    if (
        # A GraphDef begins with nodes, each of which begins with its name (tag \n); a
        # Paddle program with blocks that have a number.
        wires.get(1) == _BYTES
        and wires.keys() <= {1, 2, 3, 4, 5}
        and first[1][:1] in (b"\n", b"\x08")
    ):
        return "tensorflow" if first[1][:1] == b"\n" else "paddle"
    return (
        "caffe"
        if wires.get(1) == _BYTES and wires.get(_CAFFE_LAYER) == _BYTES
        else None
    )


def _fields(stream: BinaryIO, size: int) -> Iterator[tuple[int, int, bytes]]:
    """(field, wire type, the first bytes of its content) up to the end, or to what is no protobuf."""
    for _ in range(_MOST):
        tag = _varint(stream)
        if tag is None:
            return
        number, wire = tag >> 3, tag & 7
        if wire == _BYTES:
            # Contents are skipped, not read: a weight of gigabytes is one field.
            length = _varint(stream)
            if length is None or not number:
                return
            begin = stream.read(min(length, 8))
            yield number, wire, begin
            # Cut off. The field itself counts all the same: a truncated model is still a
            # model, and is told so when it is loaded.
            if stream.tell() + length - len(begin) > size:
                return
            stream.seek(length - len(begin), 1)
        elif wire in (_VARINT, _FIXED64, _FIXED32) and number:
            if wire == _VARINT and _varint(stream) is None:
                return
            stream.seek({_FIXED64: 8, _FIXED32: 4}.get(wire, 0), 1)
            yield number, wire, b""
        else:
            yield 0, wire, b""
            return


def _varint(stream: BinaryIO) -> int | None:
    value = 0
    # Ten bytes hold 64 bits; what goes on longer is no number of protobuf.
    for shift in range(0, 70, 7):
        byte = stream.read(1)
        if not byte:
            return None
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    return None
