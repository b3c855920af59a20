"""Sparse kernels for onnxruntime: pruned models run faster in the onnxruntime that people already have."""

from sparsify_fx.runtime.candidates import Candidate
from sparsify_fx.runtime.choice.cost import Times, estimate, measure
from sparsify_fx.runtime.library import instruction_set, library, session
from sparsify_fx.runtime.restore import sparse_weights, to_dense
from sparsify_fx.runtime.rewrite import to_sparse

__all__ = [
    "Candidate",
    "Times",
    "estimate",
    "instruction_set",
    "library",
    "measure",
    "session",
    "sparse_weights",
    "to_dense",
    "to_sparse",
]
