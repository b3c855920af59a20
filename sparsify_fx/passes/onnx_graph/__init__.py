"""Passes over a dense ONNX graph, before its weights are encoded: smaller and faster, the same outputs."""

from sparsify_fx.passes.onnx_graph.base import GraphPass, PassRow, passes_table
from sparsify_fx.passes.onnx_graph.runner import PASSES, TOLERANCE, optimize

__all__ = ["PASSES", "TOLERANCE", "GraphPass", "PassRow", "optimize", "passes_table"]
