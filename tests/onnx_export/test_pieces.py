"""Files that are written piece by piece have the same bytes as those serialized at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from sparsify_fx.onnx_export.files.pieces import model_pieces
from sparsify_fx.onnx_export.files.targets import write_checked
from sparsify_fx.onnx_export.files.tensors import TensorReader
from sparsify_fx.onnx_export.files.writing import serialized
from sparsify_fx.onnx_export.storage.encodings import encode_initializers
from sparsify_fx.onnx_export.storage.options import Wanted
from tests.onnx_export.arrays import model_with, random_tensor


def model() -> onnx.ModelProto:
    """Initializers of several types and sizes, empty ones too, and fields of model and graph on both sides of them."""
    arrays = {
        f"w{side}": random_tensor((side, 7), 0.2, 0, side) for side in (0, 1, 18, 300)
    }
    made = model_with(
        arrays | {"index": np.arange(5), "empty": np.zeros((0, 3), np.float32)}
    )
    made.graph.doc_string = "about"
    made.producer_name, made.domain = "tests", "here"
    helper.set_model_props(made, {"b": "1", "a": "2"})
    made.graph.value_info.append(
        helper.make_tensor_value_info("w18", onnx.TensorProto.FLOAT, [18, 7])
    )
    made.graph.initializer.append(
        helper.make_tensor("typed", onnx.TensorProto.FLOAT, [2], [1.0, 2.0])
    )
    made.graph.initializer.append(
        numpy_helper.from_array(np.array(["a", "bc"], object), "words")
    )
    return made


@pytest.mark.parametrize("encoding", ["none", "dense", "coo", "gap"])
def test_pieces_are_the_bytes_of_the_file(encoding: str) -> None:
    made = (
        model()
        if encoding == "none"
        else encode_initializers(model(), Wanted(encoding, functions=True)).model
    )
    assert b"".join(model_pieces(made, TensorReader())) == serialized(made)


def test_external_data_goes_inside(tmp_path: Path) -> None:
    source = model()
    onnx.save(
        source,
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="m.data",
        size_threshold=0,
    )
    outside, reader = (
        onnx.load(tmp_path / "m.onnx", load_external_data=False),
        TensorReader(tmp_path),
    )
    assert any(tensor.external_data for tensor in outside.graph.initializer)
    joined = b"".join(model_pieces(outside, reader))
    for tensor in outside.graph.initializer:
        tensor.CopyFrom(reader.inline(tensor))
    assert joined == serialized(outside)
    parsed = onnx.ModelProto.FromString(joined).graph.initializer
    for tensor, expected in zip(parsed, model().graph.initializer, strict=True):
        np.testing.assert_array_equal(
            numpy_helper.to_array(tensor), numpy_helper.to_array(expected)
        )


def test_an_error_between_pieces_leaves_no_file(tmp_path: Path) -> None:
    def pieces() -> object:
        yield b"first"
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        write_checked(tmp_path / "m.onnx", pieces(), lambda path: None)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
