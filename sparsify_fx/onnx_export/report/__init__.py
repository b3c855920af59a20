"""What the user is told: rows, totals, verdicts, notes, tables and pictures."""

from sparsify_fx.onnx_export.report.export_report import ExportReport, FileReport

__all__ = ["ExportReport", "FileReport"]
