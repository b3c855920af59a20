"""Export of sparse models to ONNX, and inspection of ONNX files and checkpoints."""

from sparsify_fx.onnx_export.checks.measure import Speed
from sparsify_fx.onnx_export.exporter import export
from sparsify_fx.onnx_export.inspection.any_file import inspect_file
from sparsify_fx.onnx_export.pack import pack_onnx
from sparsify_fx.onnx_export.report.export_report import ExportReport, FileReport
from sparsify_fx.onnx_export.report.rows import LayerRow
from sparsify_fx.onnx_export.storage.sparse_initializers import decode_coo, encode_coo
from sparsify_fx.onnx_export.tools.check import CheckReport, check_file
from sparsify_fx.onnx_export.unpack import unpack_onnx

__all__ = [
    "CheckReport", "ExportReport", "FileReport", "LayerRow", "Speed", "check_file", "decode_coo", "encode_coo",
    "export", "inspect_file", "pack_onnx", "unpack_onnx",
]  # fmt: skip
