"""Runtimes, and the converters that they come with."""

from sparsify_fx.onnx_export.tools.tool import Case, Tool

_LIBRARY = "it has no sparse operators; in Python, `runtime.session` registers them"
_COO = "it knows no sparse initializers"
_EVERY_RUN = "it rebuilds packed weights in every run: give it dense ones (--target)"

ROWS = (
    Tool(
        "onnxruntime",
        "the runtime, in Python, C++ and node",
        "onnxruntime",
        "1.32.0",
        (Case("sparse-ort", "refuses", _LIBRARY),),
    ),
    Tool(
        "onnxruntime-web",
        "the runtime in browsers",
        "onnxruntime-web",
        "1.30.0",
        (Case("sparse-ort", "refuses", "it loads no libraries"),),
    ),
    Tool(
        "openvino",
        "Intel's runtime",
        "openvino",
        "2026.4.1",
        (
            Case("sparse-ort", "refuses", "it has no sparse operators"),
            Case("coo", "refuses", _COO),
            Case("functions", "refuses", "it knows no local functions"),
            Case("MaxUnpool", "refuses", "pack again with --target openvino"),
            Case("Scan", "refuses", "pack again with --target openvino"),
            Case("QOperator", "refuses", "quantize in the format QDQ"),
        ),
    ),
    Tool(
        "tract",
        "a runtime in Rust",
        "tract",
        "0.23.9",
        (
            Case("sparse-ort", "refuses", "it has no sparse operators"),
            Case("coo", "refuses", _COO),
            Case("functions", "refuses", "it knows no local functions"),
            Case("MaxUnpool", "refuses", "pack again with --target tract"),
            Case("Scan", "refuses", "pack again with --target tract"),
            Case("QOperator", "refuses", "quantize in the format QDQ"),
            Case("bitmask", "slow", "it folds `gap` with values fp32 alone"),
            Case("fp32-packed", "slow", "it folds `gap` with values fp32 alone"),
            Case("fp16", "slow", "it folds `gap` with values fp32 alone"),
            Case("int8", "slow", "it folds `gap` with values fp32 alone"),
        ),
    ),
    Tool(
        "iree",
        "a compiler",
        "iree-base-compiler",
        "3.13.0",
        (
            Case("sparse-ort", "refuses", "it has no sparse operators"),
            Case("coo", "refuses", _COO),
            Case("functions", "refuses", "it knows no local functions"),
            Case("MaxUnpool", "refuses", "it has no MaxUnpool"),
            Case("Scan", "refuses", "it has no MaxUnpool"),
            Case("QOperator", "refuses", "quantize in the format QDQ"),
            Case("gap", "slow", _EVERY_RUN),
            Case("bitmask", "slow", _EVERY_RUN),
            Case("int8", "slow", _EVERY_RUN),
        ),
    ),
    Tool(
        "tvm",
        "a compiler",
        "apache-tvm",
        "0.27.0.post1",
        (
            Case("sparse-ort", "refuses", "it has no sparse operators"),
            Case("coo", "refuses", _COO),
            Case("functions", "refuses", "it knows no local functions"),
            Case("Scan", "refuses", "it has no Scan"),
            Case("QOperator", "refuses", "quantize in the format QDQ"),
            Case("gap", "slow", _EVERY_RUN),
            Case("bitmask", "slow", _EVERY_RUN),
            Case("int8", "slow", _EVERY_RUN),
        ),
    ),
    Tool(
        "mnn",
        "Alibaba's runtime, and mnnconvert",
        "MNN",
        "3.6.1",
        (
            Case("coo", "breaks", "the converter dies"),
            Case("sparse-ort", "refuses", "it has no sparse operators"),
            Case("functions", "refuses", "it knows no local functions"),
            Case("Scan", "refuses", "pack again with --target mnn"),
            Case("QDQ", "breaks", "it dies of quantized files of onnxruntime"),
            Case("gap + QDQ", "refuses", "it loads no quantized files of onnxruntime"),
            Case("QOperator", "refuses", "it reads no quantized files of onnxruntime"),
            Case("fp32-packed", "slow", "it keeps codes, and decodes them in every run"),
            Case("fp16", "slow", "it keeps codes, and decodes them in every run"),
            Case("int8", "slow", "it keeps codes, and decodes them in every run"),
        ),
    ),
    Tool(
        "ncnn",
        "Tencent's runtime, and pnnx",
        "pnnx",
        "20261020",
        (
            Case("coo", "breaks", "the converter dies"),
            Case("sparse-ort", "breaks", "the converter dies"),
            Case("functions", "breaks", "the converter dies"),
            Case("QOperator", "breaks", "the converter dies"),
            Case(
                "external data", "breaks", "it reads none of it, and writes other weights"
            ),
            Case("QDQ", "refuses", "ncnn does not load what pnnx writes"),
        ),
    ),
)  # fmt: skip
