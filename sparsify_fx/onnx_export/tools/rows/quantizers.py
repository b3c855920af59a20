"""onnxruntime's quantizers and converters to float16: what changes the numbers of weights that it finds."""

from sparsify_fx.onnx_export.tools.tool import Case, Tool

_FIRST = "it does not see packed weights, which stay in float: quantize, then pack"
_COO = "it does not look for weights among sparse initializers"
_UNDONE = "it folds what rebuilds the weights: before packing, not after"
_KEPT = "computed values stay as they are: convert, then pack"
_ALREADY = "the file is quantized already"
_NO_HALF = "it makes float16 of inputs that are float32 only"

ROWS = (
    Tool(
        "quant-pre-process",
        "onnxruntime.quantization's quant_pre_process",
        "onnxruntime",
        "1.32.0",
        (
            Case("coo", "refuses", "it takes a sparse weight for a missing value"),
            Case("Scan", "refuses", "its shape inference gives up"),
            Case("QOperator", "refuses", "its shape inference gives up"),
            Case("sparse-ort", "refuses", "its shape inference gives up"),
            Case("gap", "undoes", _UNDONE),
            Case("bitmask", "undoes", _UNDONE),
            Case("int8", "undoes", _UNDONE),
        ),
    ),
    Tool(
        "quantize-dynamic",
        "onnxruntime.quantization's quantize_dynamic",
        "onnxruntime",
        "1.32.0",
        (
            Case("coo", "refuses", _COO),
            Case("gap + QDQ", "works", _ALREADY),
            Case("gap + QOperator", "works", _ALREADY),
            Case("gap", "ignores", _FIRST),
            Case("bitmask", "ignores", _FIRST),
            Case("int8", "ignores", _FIRST),
            Case("sparse-ort", "ignores", _FIRST),
        ),
    ),
    Tool(
        "quantize-static",
        "onnxruntime.quantization's quantize_static",
        "onnxruntime",
        "1.32.0",
        (
            Case("coo", "refuses", _COO),
            Case("sparse-ort", "refuses", "it runs the model without the library"),
            Case("QDQ", "refuses", f"{_ALREADY}, and names would be given twice"),
            Case("gap + QOperator", "works", _ALREADY),
            Case("gap", "ignores", _FIRST),
            Case("int8", "ignores", _FIRST),
            Case("bitmask", "slow", _FIRST),
        ),
    ),
    Tool(
        "float16-onnxruntime",
        "onnxruntime.transformers.float16",
        "onnxruntime",
        "1.32.0",
        (
            Case("float32 arithmetic", "breaks", "pack files of earlier versions again"),
            Case("coo", "refuses", "sparse weights stay float32: convert, then pack"),
            Case("QOperator", "refuses", _NO_HALF),
            Case("sparse-ort", "refuses", _NO_HALF),
            Case("fp32-packed", "ignores", _KEPT),
            Case("fp16", "ignores", "the weights are float16 already"),
            Case("int8", "ignores", _KEPT),
            Case("MaxUnpool", "slow", "onnxruntime folds no MaxUnpool of float16"),
        ),
    ),
    Tool(
        "float16-onnxconverter",
        "onnxconverter_common.float16",
        "onnxconverter-common",
        "1.16.0",
        (
            Case("coo", "refuses", "sparse weights stay float32: convert, then pack"),
            Case("QOperator", "refuses", _NO_HALF),
            Case("sparse-ort", "refuses", _NO_HALF),
            Case("fp32-packed", "refuses", "onnxruntime does not load what it writes"),
            Case("int8", "refuses", "onnxruntime does not load what it writes"),
            Case("Scan", "refuses", "onnxruntime does not load what it writes"),
            Case("fp16", "refuses", "it takes the model for converted"),
            Case("MaxUnpool", "slow", "onnxruntime folds no MaxUnpool of float16"),
        ),
    ),
)  # fmt: skip
