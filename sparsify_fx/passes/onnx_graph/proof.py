"""Two ONNX models compute the same: both run in onnxruntime on the same inputs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from sparsify_fx.errors import PassError
from sparsify_fx.passes.onnx_graph import outside
from sparsify_fx.passes.onnx_graph.shapes import Shape
from sparsify_fx.passes.onnx_graph.view import FLOATS

Array = NDArray[Any]
Feed = Mapping[str, Array]

_FLOOR = 1e-3  # outputs smaller than this are measured as if they were this large
_SIZES = (2, 3, 32, 64, 224)  # tried in turn for dynamic axes other than the first


def random_feeds(model: onnx.ModelProto, seed: int) -> list[dict[str, Array]]:
    """Inputs to try, in order: standard normal floats, integers 0 and 1; the first axis, if dynamic, has size 2."""
    return [_feed(model, size, np.random.default_rng(seed)) for size in _SIZES]


def difference(before: onnx.ModelProto, after: onnx.ModelProto, feeds: Sequence[Feed], names: str = "passes") -> float:
    """The largest difference between the outputs, each relative to max(largest |entry| of that output, 1e-3).

    Both models run, without the runtime's own optimisations, on the first feed that `before` takes. Inf when shapes,
    types or places of NaN and Inf differ.

    Raises PassError when `before` does not load or runs on none of the feeds, or `after` does not load or run.
    """
    feed, expected = _first_run(before, feeds, names)
    try:
        got = _session(after).run(None, dict(feed))
    except Exception as error:
        raise PassError(f"{names}: the rewritten graph does not run: {error}; report a bug") from error
    return max((_distance(a, b) for a, b in zip(expected, got, strict=True)), default=0.0)


def sensitivity(model: onnx.ModelProto, feeds: Sequence[Feed], seed: int = 0) -> float:
    """The difference that rounding makes: between the model and itself with its float weights moved by one last place.

    Each entry other than zero goes up, down or stays, as drawn from `seed`. Steep or very deep networks turn that into
    more than the 1e-7 of float32. Raises PassError as `difference`.
    """
    moved, generator = onnx.ModelProto(), np.random.default_rng(seed)
    moved.CopyFrom(model)
    for tensor in moved.graph.initializer:
        if tensor.data_type in FLOATS and tensor.data_location != onnx.TensorProto.EXTERNAL:
            values = onnx.numpy_helper.to_array(tensor)
            towards = np.array([-np.inf, 0, np.inf], values.dtype)[generator.integers(0, 3, values.shape)]
            still = (values == 0) | (towards == 0)
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(np.where(still, values, np.nextafter(values, towards)), tensor.name)
            )
    return difference(model, moved, feeds)


def _first_run(model: onnx.ModelProto, feeds: Sequence[Feed], names: str) -> tuple[Feed, Sequence[Any]]:
    """The first feed that the model takes, and its outputs; only these stay in memory."""
    try:
        session = _session(model)
    except Exception as error:
        raise PassError(
            f"{names}: onnxruntime {onnxruntime.__version__} cannot load the model as it is given: {error}; mend it "
            "or pass prove=False"
        ) from error
    problem: Exception | None = None
    for feed in feeds:
        try:
            return feed, session.run(None, dict(feed))
        except Exception as error:  # sizes that this model does not take
            problem = error
    raise PassError(
        f"{names}: the model runs on none of {len(feeds)} random inputs ({problem}); give inputs= that it takes, or "
        "prove=False"
    )


def _distance(expected: Any, got: Any) -> float:
    if not isinstance(expected, np.ndarray) or expected.dtype.kind not in "fiub":
        return 0.0 if np.array_equal(expected, got) else float("inf")
    if expected.shape != got.shape or expected.dtype != got.dtype:
        return float("inf")
    a, b = expected.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(np.where(finite, 0, a), np.where(np.isfinite(b), 0, b), equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    return float(np.abs(a[finite] - b[finite]).max()) / max(float(np.abs(a[finite]).max()), _FLOOR)


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    providers = ["CPUExecutionProvider"]
    if outside.count_bytes(model) < outside.MAX_BYTES:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        outside.write_beside(model, path)
        return onnxruntime.InferenceSession(str(path), options, providers=providers)


def _feed(model: onnx.ModelProto, size: int, generator: np.random.Generator) -> dict[str, Array]:
    given = {tensor.name for tensor in model.graph.initializer}
    feed = {}
    for item in model.graph.input:
        if item.name not in given:
            shape = _shape(item, size)
            kind = onnx.helper.tensor_dtype_to_np_dtype(item.type.tensor_type.elem_type)
            if kind.kind == "f":
                feed[item.name] = generator.standard_normal(shape).astype(kind)
            else:
                feed[item.name] = generator.integers(0, 2, shape).astype(kind)
    return feed


def _shape(item: onnx.ValueInfoProto, size: int) -> tuple[int, ...]:
    dims: Shape = tuple(dim.dim_value or None for dim in item.type.tensor_type.shape.dim)
    return tuple(n if isinstance(n, int) else 2 if axis == 0 else size for axis, n in enumerate(dims))
