"""What the package onnx does with a file: checks, shapes, versions, parts."""

from sparsify_fx.onnx_export.tools.tool import Case, Tool

_COO = "it does not look for weights among sparse initializers"

ROWS = (
    Tool(
        "onnx-infer-shapes",
        "onnx.shape_inference.infer_shapes",
        "onnx",
        "1.23.2",
        (Case("sparse-ort", "ignores", "it infers no shapes behind sparse operators"),),
    ),
    Tool(
        "onnx-full-check",
        "onnx.checker.check_model(full_check=True)",
        "onnx",
        "1.23.2",
        (Case("coo", "refuses", "no operator may read a sparse initializer there"),),
    ),
    Tool(
        "onnx-version-converter",
        "onnx.version_converter.convert_version",
        "onnx",
        "1.23.2",
        (
            Case("coo", "refuses", _COO),
            Case("functions", "refuses", "it drops functions: nothing loads the result"),
        ),
    ),
    Tool(
        "onnx-extract-model",
        "onnx.utils.extract_model",
        "onnx",
        "1.23.2",
        (Case("coo", "refuses", "it takes no sparse initializers"),),
    ),
    Tool("onnx-compose", "onnx.compose: prefixes, and models in a row", "onnx", "1.23.2"),
    Tool(
        "onnx-reference",
        "onnx.reference.ReferenceEvaluator",
        "onnx",
        "1.23.2",
        (
            Case("coo", "refuses", "it fails on every sparse tensor"),
            Case("QOperator", "refuses", "it has no operators of onnxruntime's own"),
            Case("sparse-ort", "refuses", "it has no sparse operators"),
        ),
    ),
    Tool("onnx-save-external", "onnx.save_model with external data", "onnx", "1.23.2"),
)  # fmt: skip
