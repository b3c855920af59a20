"""What other tools do with a file: `check_file`, facts of each tool in `rows/`, and what a file holds in `traits`."""

from sparsify_fx.onnx_export.tools.check import CheckReport, check_file
from sparsify_fx.onnx_export.tools.traits import traits_of

__all__ = ["CheckReport", "check_file", "traits_of"]
