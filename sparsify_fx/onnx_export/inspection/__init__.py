"""What a file holds, layer by layer: ONNX files and checkpoints of every kind."""

from sparsify_fx.onnx_export.inspection.any_file import inspect_file

__all__ = ["inspect_file"]
