"""Converters to other frameworks."""

from sparsify_fx.onnx_export.tools.tool import Case, Tool

_LACKS = "it lacks operators that rebuild weights: unpack first"

ROWS = (
    Tool(
        "onnx2torch",
        "ONNX to PyTorch",
        "onnx2torch",
        "1.5.15",
        (
            Case("coo", "refuses", "it knows no sparse initializers: unpack first"),
            Case("gap", "refuses", _LACKS),
            Case("bitmask", "refuses", _LACKS),
            Case("int8", "refuses", _LACKS),
            Case("sparse-ort", "refuses", _LACKS),
            Case("QDQ", "refuses", "it takes no quantized files"),
            Case("QOperator", "refuses", "it takes no quantized files"),
        ),
    ),
    Tool(
        "coremltools",
        "Core ML",
        "coremltools",
        "9.0",
        (
            Case("", "refuses", "it reads no ONNX: `handing_on.save_coreml` takes the model"),
        ),
    ),
)  # fmt: skip
