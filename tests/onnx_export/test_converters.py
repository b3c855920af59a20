"""float16 converters and quantizers on packed files: the result is right to tolerance, or one of the tools refuses it.

Arithmetic that rebuilds a weight in float32 becomes float16 in such a converter, and its numbers wrong without a word;
integers and double precision stay as they are.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    quantize_dynamic,
    quantize_static,
)

from sparsify_fx.onnx_export.storage import encodings
from sparsify_fx.onnx_export.storage.codecs import ENCODINGS, VALUES
from sparsify_fx.onnx_export.storage.codecs.choosing import Choice
from sparsify_fx.onnx_export.storage.encodings import encode_initializers
from sparsify_fx.onnx_export.storage.options import Wanted
from tests.common import SWEEP

IMAGES = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
TOLERANCE = {"float16": 2e-3, "quantized": 4e-2}
"""Of the largest output: float16 has 11 bits, and quantizers 8, which are less than 7 of the dense model as well."""


class Readings(CalibrationDataReader):
    """Two batches to calibrate on."""

    def __init__(self) -> None:
        self.left: Iterator[dict[str, Any]] = iter(
            [{"x": IMAGES}, {"x": IMAGES * np.float32(0.5)}]
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self.left, None)


def float16(module: str, **options: Any) -> Callable[[Path], onnx.ModelProto]:
    """The converter of this module."""

    def convert(file: Path) -> onnx.ModelProto:
        converter = importlib.import_module(module)
        return converter.convert_float_to_float16(onnx.load(file), **options)

    return convert


def quantizer(
    function: Callable[..., None], **options: Any
) -> Callable[[Path], onnx.ModelProto]:
    def quantize(file: Path) -> onnx.ModelProto:
        more = [Readings()] if function is quantize_static else []
        result = file.with_name("quantized.onnx")
        function(str(file), str(result), *more, **options)
        return onnx.load(result)

    return quantize


TOOLS: dict[str, Callable[[Path], onnx.ModelProto]] = {
    "float16-onnxruntime": float16("onnxruntime.transformers.float16"),
    "float16-onnxruntime-io": float16(
        "onnxruntime.transformers.float16", keep_io_types=True
    ),
    "float16-onnxconverter": float16("onnxconverter_common.float16"),
    "quantized-dynamic": quantizer(quantize_dynamic),
    "quantized-static": quantizer(quantize_static),
    "quantized-static-operators": quantizer(
        quantize_static, quant_format=QuantFormat.QOperator
    ),
}


def pruned(seed: int, shape: tuple[int, ...], density: float) -> NDArray[np.float32]:
    """Values away from zero, as pruning by magnitude leaves them."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape) * 0.1
    values = np.sign(values) * (0.02 + np.abs(values))
    return np.where(rng.random(shape) < density, values, 0).astype(np.float32)


def small_net() -> onnx.ModelProto:
    """Two convolutions, a Gemm and a MatMul."""
    weights = {
        "c1": pruned(1, (16, 3, 3, 3), 0.4),
        "c2": pruned(2, (32, 16, 3, 3), 0.2),
        "g": pruned(3, (128, 32), 0.2),
        "m": pruned(4, (32, 64), 0.3),
        "b1": np.full(16, 0.1, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "c1", "b1"], ["h1"], pads=[1] * 4),
        helper.make_node("Relu", ["h1"], ["r1"]),
        helper.make_node("Conv", ["r1", "c2"], ["h2"], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["h2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "g"], ["y"], transB=1),
        helper.make_node("MatMul", ["flat", "m"], ["z"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", [2, 3, 8, 8]), ("y", [2, 128]), ("z", [2, 64]))
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )


def outputs(model: onnx.ModelProto) -> list[NDArray[np.float32]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    half = "float16" in session.get_inputs()[0].type
    found = session.run(None, {"x": IMAGES.astype(np.float16) if half else IMAGES})
    return [np.asarray(each, np.float32) for each in found]


def cases() -> list[Any]:
    """Everything crossed; what once went wrong always runs, and one of each row and column."""
    found = []
    for encoding, values, tool, target in itertools.product(
        ENCODINGS, VALUES, TOOLS, ("onnx", "onnxruntime")
    ):
        first = target == "onnx" and tool == "float16-onnxruntime"
        packed = target == "onnx" and (encoding, values) == ("gap", "fp32-packed")
        marks = () if first or packed else SWEEP
        found.append(pytest.param(encoding, values, tool, target, marks=marks))
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("encoding", "values", "tool", "target"), cases())
def test_converted_files_are_right_or_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    encoding: str,
    values: str,
    tool: str,
    target: str,
) -> None:
    def wanted_kind(found: Sequence[Sequence[Choice]], *_: Any) -> list[Choice]:
        """These values even where plain ones would make the smaller file."""
        return [
            next((each for each in some if each.values == values), some[0])
            for some in found
        ]

    monkeypatch.setattr(encodings, "smallest", wanted_kind)
    made = encode_initializers(small_net(), Wanted(encoding, values, target=target))
    assert values in {row.values for row in made.rows} or encoding == "coo"
    expected = outputs(made.model)
    onnx.save(made.model, tmp_path / "packed.onnx")
    try:
        got = outputs(TOOLS[tool](tmp_path / "packed.onnx"))
    except Exception as error:
        # Both tools and onnxruntime raise a dozen classes. A refusal is what a user can
        # act on; a bug of this test would be a NameError.
        assert not isinstance(error, (NameError, ImportError))  # noqa: PT017
        # The fp32 forms are converted by both converters, and stay so; a dense file goes through every tool.
        taken = "float16" in tool or encoding == "dense"
        assert not (values == "fp32" and encoding != "coo" and taken)
        return
    limit = TOLERANCE[tool.partition("-")[0]]
    for one, other in zip(got, expected, strict=True):
        assert np.abs(one - other).max() <= limit * np.abs(other).max()
