"""The shapes of a model's values, read off one run: what shape inference cannot know, a run does."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnx import TensorProto, helper

from sparsify_fx.onnx_export.files.tensors import TensorReader, load_onnx
from sparsify_fx.onnx_tools import outside
from sparsify_fx.onnx_tools.shapes import infer_kinds, infer_shapes
from sparsify_fx.runtime.restore import sparse_weights

Shapes = dict[str, tuple[int, ...]]

_PREFIX = "sparsify_fx.shape."


def shapes_of_run(
    file: Path, dense: onnx.ModelProto, reader: TensorReader, feed: Mapping[str, Any]
) -> Shapes:
    """The shapes of all tensors of the main graph when `file`, whose dense form is `dense`, runs on `feed`.

    The shape of each value that inference leaves open is computed beside it, by a Shape node: only shapes are kept, so
    a run takes no more memory than usual. Empty where the model does not run so; then inference is all there is.
    """
    sizes = {
        name: tuple(value.shape)
        for name, value in feed.items()
        if hasattr(value, "shape")
    }
    inferred = infer_shapes(dense, sizes)
    kinds = infer_kinds(dense)
    outputs: list[str] = []
    for node in dense.graph.node:
        outputs += filter(None, node.output)
    # Sequences and optional values have no shape to ask for.
    wanted = [
        name
        for name in outputs
        if not _is_known(inferred.get(name)) and kinds.get(name, True)
    ]
    found = {
        name: shape for name, shape in inferred.items() if _is_known(shape)
    } | sizes
    # A value of unknown kind may turn out to be no tensor, which fails the whole run;
    # then only those that are tensors for sure are asked.
    for names in (wanted, [name for name in wanted if name in kinds]):
        if names and (shapes := _run(file, dense, reader, feed, names)):
            return found | shapes
    return found


def _is_known(shape: tuple[object, ...] | None) -> bool:
    return shape is not None and all(isinstance(size, int) for size in shape)


def _run(
    file: Path,
    dense: onnx.ModelProto,
    reader: TensorReader,
    feed: Mapping[str, Any],
    names: Collection[str],
) -> Shapes:
    """The shapes of these values; empty when onnxruntime refuses."""
    asking = _asking(file, dense, reader, names)
    if outside.count_bytes(asking) >= outside.MAX_BYTES:
        return {}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # Not optimized: asked for are the values that the file names, and one run need not be
    # fast.
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    )
    options.add_session_config_entry(
        # A model given as bytes has no folder from which external data could be found.
        "session.model_external_initializers_file_folder_path",
        str(file.parent.resolve()),
    )
    try:
        session = onnxruntime.InferenceSession(
            asking.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        results = session.run(None, dict(feed))
    except Exception:
        # A dozen classes; the run that compares outputs says what is wrong.
        return {}
    return {
        name: tuple(map(int, shape)) for name, shape in zip(names, results, strict=True)
    }


def _asking(
    file: Path, dense: onnx.ModelProto, reader: TensorReader, names: Collection[str]
) -> onnx.ModelProto:
    """The model of the file with the shapes of these values as its outputs, its external data left where they are.

    A file with sparse operators has other values between layers than its dense form, which is taken in its place.
    """
    model = load_onnx(file)
    if sparse_weights(model):
        model = onnx.ModelProto()
        model.CopyFrom(dense)
        for tensor in model.graph.initializer:
            tensor.CopyFrom(reader.inline(tensor))
    graph = model.graph
    graph.node.extend(
        helper.make_node("Shape", [name], [_PREFIX + name]) for name in names
    )
    del graph.output[:]
    graph.output.extend(
        helper.make_tensor_value_info(_PREFIX + name, TensorProto.INT64, None)
        for name in names
    )
    return model
