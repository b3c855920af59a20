"""Simplifiers and optimizers: what writes a graph like the one that it read, and folds constants on the way."""

from sparsify_fx.onnx_export.tools.tool import Case, Tool

_FOLDED = "it folds what rebuilds the weights: before packing, not after"
_DENSE = (
    Case("gap", "undoes", _FOLDED),
    Case("bitmask", "undoes", _FOLDED),
    Case("int8", "undoes", _FOLDED),
)

ROWS = (
    Tool(
        "onnxsim",
        "onnx-simplifier",
        "onnxsim",
        "0.8.1",
        (Case("coo + batch-norm", "breaks", "it dies where it fuses them"), *_DENSE),
    ),
    Tool(
        "onnxslim",
        "onnxslim",
        "onnxslim",
        "0.1.98",
        (Case("coo + batch-norm", "refuses", "it fails where it fuses them"), *_DENSE),
    ),
    Tool(
        "onnxoptimizer",
        "onnx's former optimizer",
        "onnxoptimizer",
        "0.4.2",
        (
            Case("coo", "refuses", "it does not look for weights among sparse initializers"),
        ),
    ),
    Tool(
        "onnxruntime-graph",
        "the optimized graph that onnxruntime saves",
        "onnxruntime",
        "1.32.0",
        (
            Case("sparse-ort", "refuses", "register the library of `runtime.library()`"),
            Case("coo + convolutions", "undoes", "ship the packed file itself"),
            *_DENSE,
        ),
    ),
    Tool(
        "onnxruntime-ort",
        "onnxruntime's format .ort",
        "onnxruntime",
        "1.32.0",
        (
            Case("sparse-ort", "refuses", "register the library of `runtime.library()`"),
            Case("coo + convolutions", "undoes", "convolutions become dense"),
            *_DENSE,
        ),
    ),
)  # fmt: skip
