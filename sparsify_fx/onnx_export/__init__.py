"""Export of sparse models to ONNX, and inspection of ONNX files and checkpoints."""

from sparsify_fx.onnx_export.exporter import export
from sparsify_fx.onnx_export.inspection import inspect_file
from sparsify_fx.onnx_export.report import ExportReport, FileReport, LayerRow
from sparsify_fx.onnx_export.sparse_initializers import decode_coo, encode_coo

__all__ = ["ExportReport", "FileReport", "LayerRow", "decode_coo", "encode_coo", "export", "inspect_file"]
