"""Sparse kernels for onnxruntime: pruned models run faster in the onnxruntime that people already have."""

from sparsify_fx.runtime.library import instruction_set, library, session
from sparsify_fx.runtime.rewrite import Candidate, to_sparse

__all__ = ["Candidate", "instruction_set", "library", "session", "to_sparse"]
